-- What an account hid for itself; conversations as they were at a position of a timeline.
-- depends: 0031-reach

-- Messages that an account deleted for itself. Its devices are told by an event of its self
-- conversation; here it keeps them out of history, counts and resumes.
CREATE TABLE chat.hidden (
  account bigint NOT NULL,
  conversation bigint NOT NULL,
  conversation_seq bigint NOT NULL,
  PRIMARY KEY (account, conversation, conversation_seq)
);

CREATE FUNCTION chat.is_hidden_1(p_account bigint, p_conversation bigint, p_seq bigint)
RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM chat.hidden h WHERE h.account = p_account
    AND h.conversation = p_conversation AND h.conversation_seq = p_seq)
$$;

-- An event in the owner's self conversation: something of the account changed. Under the lock order
-- of every commit.
CREATE FUNCTION chat.tell_self_1(
  p_tenant integer, p_account bigint, p_id bigint, p_key uuid, p_body bytea,
  p_batch_id bigint, p_node bigint
) RETURNS TABLE (
  row_no integer, status smallint, message_id bigint, conversation_id bigint,
  conversation_seq bigint, message_no bigint, created_at_ms bigint, account bigint,
  timeline_seq bigint, bits smallint
) LANGUAGE sql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET lock_timeout = '5s' AS $$
  SELECT * FROM chat.commit_1(ARRAY[p_id], ARRAY[p_tenant], ARRAY[p_account],
    ARRAY[(SELECT a.self_conversation FROM chat.account a WHERE a.id = p_account)],
    ARRAY[9::smallint], ARRAY[4::smallint], ARRAY[p_key], ARRAY[(1::bigint << 56)],
    ARRAY[0::bigint], ARRAY[0::bigint], ARRAY[p_body], ARRAY[''::bytea], ARRAY[''::bytea],
    '{}', '{}', 0, p_batch_id, p_node, '{}')
$$;

-- Hides a message that the account may read, and tells its devices. Nothing comes back when it was
-- hidden already; status 3: there is no such message for this account.
CREATE FUNCTION chat.hide_1(
  p_tenant integer, p_account bigint, p_conversation bigint, p_seq bigint, p_id bigint,
  p_key uuid, p_body bytea, p_batch_id bigint, p_node bigint
) RETURNS TABLE (
  row_no integer, status smallint, message_id bigint, conversation_id bigint,
  conversation_seq bigint, message_no bigint, created_at_ms bigint, account bigint,
  timeline_seq bigint, bits smallint
) LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET lock_timeout = '5s' AS $$
#variable_conflict use_column
BEGIN
  -- locks
  PERFORM FROM chat.account a JOIN chat.conversation c ON c.id = a.self_conversation
  WHERE a.id = p_account AND a.tenant = p_tenant FOR NO KEY UPDATE OF c;
  PERFORM FROM chat.timeline_head h WHERE h.account = p_account FOR NO KEY UPDATE;
  -- checks
  IF NOT EXISTS (SELECT FROM chat.event e JOIN chat.conversation c ON c.id = e.conversation
      WHERE e.conversation = p_conversation AND e.conversation_seq = p_seq AND e.flags & 1 = 1
        AND c.tenant = p_tenant AND chat.may_read_1(p_account, p_conversation, p_seq)) THEN
    RETURN QUERY SELECT 1, 3::smallint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint,
      p_account, 0::bigint, 0::smallint;
    RETURN;
  END IF;
  -- writes
  INSERT INTO chat.hidden VALUES (p_account, p_conversation, p_seq) ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN QUERY SELECT * FROM chat.tell_self_1(p_tenant, p_account, p_id, p_key, p_body,
      p_batch_id, p_node);
  END IF;
END $$;

-- What counts as unread for one member (the table of chat_svc.core.unread), event by event up to
-- p_exact; a longer backlog is told by its numbers, and its mentions among the newest p_exact.
-- p_up_to_seq: as if the conversation ended there.
CREATE FUNCTION chat.unread_2(
  p_account bigint, p_conversation bigint, p_read_no bigint, p_read_seq bigint, p_last_no bigint,
  p_exact integer, p_up_to_seq bigint
) RETURNS TABLE (unread bigint, mentions bigint) LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_last_no - p_read_no <= p_exact THEN count(*) ELSE p_last_no - p_read_no END,
    count(*) FILTER (WHERE e.mentions @> ARRAY[p_account])
  FROM (
    SELECT e.mentions FROM chat.event e
    WHERE p_last_no > p_read_no AND e.conversation = p_conversation
      AND e.conversation_seq > p_read_seq AND e.conversation_seq <= p_up_to_seq
      AND e.message_no > p_read_no AND e.flags & 9 = 1 AND e.sender <> p_account
      AND NOT e.expires_at_ms BETWEEN 1 AND chat.now_ms()
      AND NOT EXISTS (SELECT FROM chat.block b
        WHERE b.owner = p_account AND b.blocked = e.sender)
      AND NOT EXISTS (SELECT FROM chat.hidden h WHERE h.account = p_account
        AND h.conversation = p_conversation AND h.conversation_seq = e.conversation_seq)
    ORDER BY e.conversation_seq DESC LIMIT p_exact
  ) e
$$;

CREATE OR REPLACE FUNCTION chat.unread_1(
  p_account bigint, p_conversation bigint, p_read_no bigint, p_read_seq bigint, p_last_no bigint,
  p_exact integer
) RETURNS TABLE (unread bigint, mentions bigint) LANGUAGE sql STABLE AS $$
  SELECT * FROM chat.unread_2(p_account, p_conversation, p_read_no, p_read_seq, p_last_no, p_exact,
    9223372036854775807)
$$;

-- Conversations of which the account is a member now, with its state and the newest visible message.
-- p_up_to_seq, beside p_conversation: as if each ended there.
CREATE FUNCTION chat.views_2(p_account bigint, p_conversation bigint[], p_up_to_seq bigint[],
  p_exact integer)
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
    CASE WHEN e.expires_at_ms BETWEEN 1 AND chat.now_ms() THEN '' ELSE e.body END
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
    SELECT * FROM chat.event e
    WHERE e.conversation = c.id AND e.conversation_seq <= x.up_to AND e.flags & 1 = 1
      AND chat.may_read_1(m.account, c.id, e.conversation_seq)
      AND NOT chat.is_hidden_1(m.account, c.id, e.conversation_seq)
    ORDER BY e.conversation_seq DESC LIMIT 1
  ) e ON true
  LEFT JOIN chat.account s ON s.id = e.sender
$$;

CREATE OR REPLACE FUNCTION chat.views_1(p_account bigint, p_conversation bigint[], p_exact integer)
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
  SELECT * FROM chat.views_2(p_account, p_conversation,
    array_fill(9223372036854775807, ARRAY[cardinality(p_conversation)]), p_exact)
$$;

-- The first p_entries after p_after and up to p_up_to, contiguous. p_bytes bounds their bodies; one
-- entry always comes. An event that is gone (retention), over or hidden reads as erased.
CREATE OR REPLACE FUNCTION chat.entries_1(
  p_account bigint, p_after bigint, p_up_to bigint, p_entries integer, p_bytes bigint
) RETURNS TABLE (
  timeline_seq bigint, conversation bigint, conversation_seq bigint, message_no bigint, id bigint,
  sender_user text, created_at_ms bigint, peer_user text, kind smallint, body bytea, key uuid,
  notifies boolean
) LANGUAGE sql STABLE AS $$
  SELECT x.timeline_seq, x.conversation, x.conversation_seq, coalesce(x.message_no, 0),
    coalesce(x.id, 0), coalesce(s.external_id, ''), coalesce(x.created_at_ms, 0),
    coalesce(p.external_id, ''), coalesce(c.kind, 0::smallint), x.body,
    CASE WHEN x.sender = p_account THEN x.key END,
    coalesce(x.flags & 2 > 0 AND x.sender <> p_account, false)
  FROM (
    SELECT t.timeline_seq, t.conversation, t.conversation_seq, e.message_no, e.id, e.sender,
      e.created_at_ms, e.key, e.flags,
      CASE WHEN e.id IS NULL OR e.expires_at_ms BETWEEN 1 AND chat.now_ms()
        OR chat.is_hidden_1(p_account, t.conversation, t.conversation_seq) THEN '' ELSE e.body
        END AS body,
      sum(octet_length(e.body)) OVER (ORDER BY t.timeline_seq) - octet_length(e.body) AS before
    FROM (SELECT * FROM chat.timeline t WHERE t.account = p_account
      AND t.timeline_seq > p_after AND t.timeline_seq <= p_up_to
      ORDER BY t.timeline_seq LIMIT p_entries) t
    LEFT JOIN LATERAL (SELECT * FROM chat.event e WHERE e.conversation = t.conversation
      AND e.conversation_seq = t.conversation_seq LIMIT 1) e ON true
  ) x
  LEFT JOIN chat.conversation c ON c.id = x.conversation
  LEFT JOIN chat.account s ON s.id = x.sender
  LEFT JOIN chat.account p
    ON p.id = CASE WHEN c.direct_low = x.sender THEN c.direct_high ELSE c.direct_low END
  WHERE coalesce(x.before, 0) < p_bytes
$$;
