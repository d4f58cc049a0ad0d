-- Conversations as one member sees them.
-- depends: 0002-functions

-- What counts as unread for one member (the table of chat_svc.core.unread), event by event up to
-- p_exact; a longer backlog is told by its numbers, and its mentions among the newest p_exact.
CREATE FUNCTION chat.unread_1(
  p_account bigint, p_conversation bigint, p_read_no bigint, p_read_seq bigint, p_last_no bigint,
  p_exact integer
) RETURNS TABLE (unread bigint, mentions bigint) LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_last_no - p_read_no <= p_exact THEN count(*) ELSE p_last_no - p_read_no END,
    count(*) FILTER (WHERE e.mentions @> ARRAY[p_account])
  FROM (
    SELECT e.mentions FROM chat.event e
    WHERE p_last_no > p_read_no AND e.conversation = p_conversation
      AND e.conversation_seq > p_read_seq AND e.message_no > p_read_no
      AND e.flags & 9 = 1 AND e.sender <> p_account
      AND NOT e.expires_at_ms BETWEEN 1 AND chat.now_ms()
      AND NOT EXISTS (SELECT FROM chat.block b
        WHERE b.owner = p_account AND b.blocked = e.sender)
    ORDER BY e.conversation_seq DESC LIMIT p_exact
  ) e
$$;

-- Whether an account may read a position of a conversation: it lies in one of its intervals.
CREATE FUNCTION chat.may_read_1(p_account bigint, p_conversation bigint, p_seq bigint)
RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM chat.member_interval i
    WHERE i.conversation = p_conversation AND i.account = p_account
      AND p_seq >= i.from_conversation_seq
      AND (i.to_conversation_seq IS NULL OR p_seq <= i.to_conversation_seq))
$$;

-- Conversations of which the account is a member now, with its state and the newest visible message.
CREATE FUNCTION chat.views_1(p_account bigint, p_conversation bigint[], p_exact integer)
RETURNS TABLE (
  id bigint, tenant integer, kind smallint, direct_low bigint, direct_high bigint, title text,
  member_count integer, last_conversation_seq bigint, last_message_no bigint,
  last_created_at_ms bigint, join_policy smallint, history_policy smallint, govern_version integer,
  role smallint, read_message_no bigint, unread bigint, mentions bigint, mute smallint,
  mute_until_ms bigint, pinned boolean, archived boolean, marked_unread boolean, draft text,
  changed_at_version bigint,
  peer text,
  event_seq bigint, event_no bigint, event_id bigint, event_sender bigint, event_sender_user text,
  event_at_ms bigint, event_kind smallint, event_body bytea
) LANGUAGE sql STABLE AS $$
  SELECT c.id, c.tenant, c.kind, coalesce(c.direct_low, 0), coalesce(c.direct_high, 0), c.title,
    c.member_count, c.last_conversation_seq, c.last_message_no, c.last_created_at_ms,
    c.join_policy, c.history_policy, c.govern_version,
    m.role, m.read_message_no, n.unread, n.mentions, m.mute, m.mute_until_ms, m.pinned, m.archived,
    m.marked_unread, m.draft, m.changed_at_version,
    coalesce(p.external_id, ''),
    e.conversation_seq, e.message_no, e.id, e.sender, s.external_id, e.created_at_ms, e.kind,
    CASE WHEN e.expires_at_ms BETWEEN 1 AND chat.now_ms() THEN '' ELSE e.body END
  FROM chat.member m
  JOIN chat.conversation c ON c.id = m.conversation
  CROSS JOIN LATERAL chat.unread_1(m.account, c.id, m.read_message_no, m.read_conversation_seq,
    c.last_message_no, p_exact) n
  LEFT JOIN chat.account p
    ON p.id = CASE WHEN c.direct_low = m.account THEN c.direct_high ELSE c.direct_low END
  LEFT JOIN LATERAL (
    SELECT * FROM chat.event e
    WHERE e.conversation = c.id AND e.flags & 1 = 1
      AND chat.may_read_1(m.account, c.id, e.conversation_seq)
    ORDER BY e.conversation_seq DESC LIMIT 1
  ) e ON true
  LEFT JOIN chat.account s ON s.id = e.sender
  WHERE m.account = p_account AND m.conversation = ANY (p_conversation) AND NOT m.gone
$$;
