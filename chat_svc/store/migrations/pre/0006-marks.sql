-- Marks of members: what reached them, what they read, and their own state.
-- Lock order: member < timeline_head.
-- depends: 0002-functions

-- The conversation_seq of the visible message numbered p_no; where it is past retention, the
-- position that it cannot lie above.
CREATE FUNCTION chat.seq_of_message_no(p_conversation bigint, p_no bigint, p_after bigint)
RETURNS bigint LANGUAGE sql STABLE AS $$
  -- message_no <= conversation_seq always, so the search begins there
  SELECT coalesce((SELECT e.conversation_seq FROM chat.event e
    WHERE e.conversation = p_conversation AND e.conversation_seq > greatest(p_after, p_no - 1)
      AND e.message_no = p_no
    ORDER BY e.conversation_seq LIMIT 1), greatest(p_after, p_no))
$$;

-- Raises marks of current members. One row per (conversation, account); 0 = not said.
CREATE FUNCTION chat.write_marks_1(
  p_conversation bigint[], p_account bigint[], p_read bigint[], p_delivered bigint[]
) RETURNS TABLE (
  conversation_id bigint, account_id bigint, read_no bigint, delivered_seq bigint,
  read_changed boolean, delivered_changed boolean, conversation_kind smallint,
  member_count integer
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_readers bigint[];
BEGIN
  PERFORM FROM chat.member m
  WHERE (m.conversation, m.account) IN (SELECT * FROM unnest(p_conversation, p_account))
  ORDER BY m.conversation, m.account FOR NO KEY UPDATE;
  v_readers := ARRAY(SELECT DISTINCT m.account
    FROM unnest(p_conversation, p_account, p_read) x(conversation, account, read_no)
    JOIN chat.conversation c ON c.id = x.conversation
    JOIN chat.member m ON m.conversation = x.conversation AND m.account = x.account
      AND NOT m.gone AND m.read_message_no < least(x.read_no, c.last_message_no));
  IF v_readers <> '{}' THEN
    PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_readers)
    ORDER BY h.account FOR NO KEY UPDATE;
    UPDATE chat.timeline_head h SET account_version = h.account_version + 1
    WHERE h.account = ANY (v_readers);
  END IF;
  RETURN QUERY
  WITH rise AS MATERIALIZED (
    SELECT m.conversation, m.account, c.kind, c.member_count, m.read_conversation_seq AS read_seq,
      m.read_message_no < least(x.read_no, c.last_message_no) AS reads,
      m.delivered_conversation_seq < least(x.delivered, c.last_conversation_seq) AS delivers,
      greatest(m.read_message_no, least(x.read_no, c.last_message_no)) AS read_no,
      greatest(m.delivered_conversation_seq, least(x.delivered, c.last_conversation_seq))
        AS delivered
    FROM unnest(p_conversation, p_account, p_read, p_delivered)
      x(conversation, account, read_no, delivered)
    JOIN chat.conversation c ON c.id = x.conversation
    JOIN chat.member m ON m.conversation = x.conversation AND m.account = x.account AND NOT m.gone
  )
  UPDATE chat.member m SET read_message_no = r.read_no, delivered_conversation_seq = r.delivered,
    read_conversation_seq = CASE WHEN r.reads
      THEN chat.seq_of_message_no(r.conversation, r.read_no, r.read_seq) ELSE r.read_seq END,
    marked_unread = m.marked_unread AND NOT r.reads,
    changed_at_version = CASE WHEN r.reads THEN (SELECT h.account_version
      FROM chat.timeline_head h WHERE h.account = r.account) ELSE m.changed_at_version END
  FROM rise r
  WHERE m.conversation = r.conversation AND m.account = r.account AND (r.reads OR r.delivers)
  RETURNING r.conversation, r.account, r.read_no, r.delivered, r.reads, r.delivers, r.kind,
    r.member_count;
END $$;

-- Sets a current member's own state; NULL = unchanged. False: not a member.
CREATE FUNCTION chat.update_member_state_1(
  p_account bigint, p_conversation bigint, p_read bigint, p_mute smallint, p_mute_until_ms bigint,
  p_pinned boolean, p_archived boolean, p_marked_unread boolean, p_draft text
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_version bigint;
BEGIN
  IF p_read IS NOT NULL THEN
    PERFORM chat.write_marks_1(ARRAY[p_conversation], ARRAY[p_account], ARRAY[p_read], '{0}');
  END IF;
  PERFORM FROM chat.member m
  WHERE m.conversation = p_conversation AND m.account = p_account AND NOT m.gone
  FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF coalesce(p_mute, p_pinned::integer, p_archived::integer, p_marked_unread::integer,
      length(p_draft)) IS NULL THEN
    RETURN true;
  END IF;
  UPDATE chat.timeline_head h SET account_version = h.account_version + 1
  WHERE h.account = p_account RETURNING h.account_version INTO v_version;
  UPDATE chat.member m SET changed_at_version = v_version, mute = coalesce(p_mute, m.mute),
    mute_until_ms = CASE WHEN p_mute IS NULL THEN m.mute_until_ms ELSE p_mute_until_ms END,
    pinned = coalesce(p_pinned, m.pinned), archived = coalesce(p_archived, m.archived),
    marked_unread = coalesce(p_marked_unread, m.marked_unread), draft = coalesce(p_draft, m.draft)
  WHERE m.conversation = p_conversation AND m.account = p_account;
  RETURN true;
END $$;
