-- Reads are bounded by what is asked for, not by how much others, or oneself, have said.
-- depends: 0090-edits-and-stays
--
-- A conversation's newest message was looked for behind everything that its reader may not read: who
-- joined a group of a million messages read them all with each list of conversations. And what does
-- not count as unread was not counted against the bound: who never marks anything as read read all
-- that they wrote themselves with every welcome.

-- As before, but it looks at the newest p_exact messages, whether they count or not. p_up_to_seq: as if
-- the conversation ended there.
CREATE OR REPLACE FUNCTION chat.unread_2(
  p_account bigint, p_conversation bigint, p_read_no bigint, p_read_seq bigint, p_last_no bigint,
  p_exact integer, p_up_to_seq bigint
) RETURNS TABLE (unread bigint, mentions bigint) LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_last_no - p_read_no <= p_exact THEN count(*) ELSE p_last_no - p_read_no END,
    count(*) FILTER (WHERE e.mentions @> ARRAY[p_account])
  FROM (
    SELECT * FROM chat.event e
    WHERE p_last_no > p_read_no AND e.conversation = p_conversation
      AND e.conversation_seq > p_read_seq AND e.conversation_seq <= p_up_to_seq
      AND e.message_no > p_read_no
    ORDER BY e.conversation_seq DESC LIMIT p_exact
  ) e
  WHERE e.flags & 9 = 1 AND e.sender <> p_account
    AND NOT e.expires_at_ms BETWEEN 1 AND chat.now_ms()
    AND NOT EXISTS (SELECT FROM chat.block b WHERE b.owner = p_account AND b.blocked = e.sender)
    AND NOT EXISTS (SELECT FROM chat.hidden h WHERE h.account = p_account
      AND h.conversation = p_conversation AND h.conversation_seq = e.conversation_seq)
$$;

-- As before, but the newest message is looked for within the reader's stays only.
CREATE OR REPLACE FUNCTION chat.views_2(p_account bigint, p_conversation bigint[],
  p_up_to_seq bigint[], p_exact integer)
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
    c.member_count, l.seq, l.no, l.at_ms,
    c.join_policy, c.history_policy, c.govern_version,
    m.role, m.read_message_no, n.unread, n.mentions, m.mute, m.mute_until_ms, m.pinned, m.archived,
    m.marked_unread, m.draft, m.changed_at_version,
    coalesce(p.external_id, ''),
    e.conversation_seq, e.message_no, e.id, e.sender, s.external_id, e.created_at_ms, e.kind,
    CASE WHEN e.expires_at_ms BETWEEN 1 AND chat.now_ms() THEN ''
      WHEN e.flags & 16 > 0
        THEN chat.edited_body_1(m.account, c.id, e.conversation_seq, e.body)
      ELSE e.body END
  FROM unnest(p_conversation, p_up_to_seq) x(conversation, up_to)
  JOIN chat.member m ON m.conversation = x.conversation AND m.account = p_account AND NOT m.gone
  JOIN chat.conversation c ON c.id = m.conversation
  CROSS JOIN LATERAL (
    SELECT c.last_conversation_seq AS seq, c.last_message_no AS no, c.last_created_at_ms AS at_ms
    WHERE x.up_to >= c.last_conversation_seq
    UNION ALL
    SELECT x.up_to, coalesce((SELECT e.message_no FROM chat.event e WHERE e.conversation = c.id
        AND e.conversation_seq <= x.up_to AND e.message_no > 0
        ORDER BY e.conversation_seq DESC LIMIT 1), 0),
      coalesce((SELECT e.created_at_ms FROM chat.event e WHERE e.conversation = c.id
        AND e.conversation_seq <= x.up_to ORDER BY e.conversation_seq DESC LIMIT 1),
        c.created_at_ms)
    WHERE x.up_to < c.last_conversation_seq
  ) l
  CROSS JOIN LATERAL chat.unread_2(m.account, c.id, m.read_message_no, m.read_conversation_seq,
    l.no, p_exact, x.up_to) n
  LEFT JOIN chat.account p
    ON p.id = CASE WHEN c.direct_low = m.account THEN c.direct_high ELSE c.direct_low END
  LEFT JOIN LATERAL (
    SELECT newest.* FROM chat.member_interval i
    CROSS JOIN LATERAL (
      SELECT * FROM chat.event e
      WHERE e.conversation = c.id AND e.conversation_seq >= i.from_conversation_seq
        AND e.conversation_seq <= least(i.to_conversation_seq, x.up_to) AND e.flags & 1 = 1
        AND NOT chat.is_hidden_1(m.account, c.id, e.conversation_seq)
      ORDER BY e.conversation_seq DESC LIMIT 1
    ) newest
    WHERE i.conversation = c.id AND i.account = m.account
    ORDER BY newest.conversation_seq DESC LIMIT 1
  ) e ON true
  LEFT JOIN chat.account s ON s.id = e.sender
$$;
