-- Marks, with the positions that they passed: whose messages they tell of.
-- depends: 0032-hidden

-- As write_marks_1. above_seq, up_to_seq: the positions that one of the two marks newly passed.
CREATE FUNCTION chat.write_marks_2(
  p_conversation bigint[], p_account bigint[], p_read bigint[], p_delivered bigint[]
) RETURNS TABLE (
  conversation_id bigint, account_id bigint, read_no bigint, delivered_seq bigint,
  read_changed boolean, delivered_changed boolean, conversation_kind smallint,
  member_count integer, above_seq bigint, up_to_seq bigint
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
      m.delivered_conversation_seq AS delivered_before,
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
    r.member_count,
    least(CASE WHEN r.reads THEN r.read_seq END, CASE WHEN r.delivers THEN r.delivered_before END),
    greatest(CASE WHEN r.reads THEN m.read_conversation_seq END,
      CASE WHEN r.delivers THEN r.delivered END);
END $$;
