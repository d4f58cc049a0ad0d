-- Who was a member at a position gets what was said there, nobody else: an edit changes what a message
-- says only for those who were members when it was made. Others read the message as it was.
-- depends: 0030-retention 0032-hidden
--
-- Costs nothing where nobody edits: a reader looks further only at events with flag 16 (edited), an
-- edit keeps what it replaces only if somebody's stay ended between, and the triggers' conditions are
-- false for every other row. Inserts have no trigger.

-- What an edited message said from since_seq (its own position, or that of an edit) to the next edit.
CREATE TABLE chat.event_version (
  conversation bigint NOT NULL,
  conversation_seq bigint NOT NULL,
  since_seq bigint NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (conversation, conversation_seq, since_seq)
);

-- Stays that ended: whether a version must be kept.
CREATE INDEX member_interval_end ON chat.member_interval (conversation, to_conversation_seq)
  WHERE to_conversation_seq IS NOT NULL;

-- Messages that were edited before this table: what they said first is not known, and reads as erased
-- for those who had left by then.
UPDATE chat.event e SET flags = e.flags | 16
FROM (SELECT DISTINCT x.conversation, x.target_seq FROM chat.event x WHERE x.kind = 3) t
WHERE e.conversation = t.conversation AND e.conversation_seq = t.target_seq;

-- What an edited message says to an account: the text of the newest edit that it may read.
-- p_body: what the message says now.
CREATE FUNCTION chat.edited_body_1(
  p_account bigint, p_conversation bigint, p_seq bigint, p_body bytea
) RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_body = '' OR chat.may_read_1(p_account, p_conversation,
      (SELECT max(e.conversation_seq) FROM chat.event e
        WHERE e.conversation = p_conversation AND e.kind = 3 AND e.target_seq = p_seq))
    THEN p_body ELSE coalesce(
      (SELECT v.body FROM chat.event_version v
        WHERE v.conversation = p_conversation AND v.conversation_seq = p_seq
          AND chat.may_read_1(p_account, p_conversation, v.since_seq)
        ORDER BY v.since_seq DESC LIMIT 1), '') END
$$;

-- What a message said goes with the message: deleted, expired, erased with its writer, or too old.
CREATE FUNCTION chat.forget_versions_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM chat.event_version v
  WHERE v.conversation = OLD.conversation AND v.conversation_seq = OLD.conversation_seq;
  RETURN NULL;
END $$;
CREATE TRIGGER event_blanked AFTER UPDATE ON chat.event
  FOR EACH ROW WHEN (NEW.flags & 24 = 24 AND OLD.flags & 8 = 0)
  EXECUTE FUNCTION chat.forget_versions_1();
CREATE TRIGGER event_gone AFTER DELETE ON chat.event
  FOR EACH ROW WHEN (OLD.flags & 16 > 0) EXECUTE FUNCTION chat.forget_versions_1();

-- As before; and an edit marks its message, and keeps what it replaces for those who had left by then.
-- Members do not change within a batch: of the edits of one message in it only the last is read.
CREATE OR REPLACE FUNCTION chat.apply_targets_1(
  p_status smallint[], p_conversation bigint[], p_kind smallint[], p_target bigint[],
  p_patch bytea[]
) RETURNS void LANGUAGE sql VOLATILE AS $$
  WITH target AS MATERIALIZED (
    SELECT t.conversation, t.target, bool_or(t.kind = 4) AS deleted,
      max(t.n) FILTER (WHERE t.kind = 3) AS last_edit,
      count(*) FILTER (WHERE t.kind = 3) AS edits
    FROM unnest(p_status, p_conversation, p_kind, p_target)
      WITH ORDINALITY t(status, conversation, kind, target, n)
    WHERE t.status = 0 AND t.kind IN (3, 4) GROUP BY t.conversation, t.target
  ), erased AS (
    UPDATE chat.event e SET body = '', mentions = NULL, flags = e.flags | 8
    FROM target t WHERE t.deleted AND e.conversation = t.conversation
      AND (e.conversation_seq = t.target OR (e.kind = 3 AND e.target_seq = t.target))
  ), ending AS (
    UPDATE chat.event e SET expires_at_ms = m.expires_at_ms
    FROM target t
    JOIN chat.event m ON m.conversation = t.conversation AND m.conversation_seq = t.target
      AND m.expires_at_ms > 0
    WHERE NOT t.deleted AND e.conversation = t.conversation AND e.kind = 3
      AND e.target_seq = t.target AND e.expires_at_ms <> m.expires_at_ms
  ), replaced AS MATERIALIZED (
    -- the batch's own edits are rows already: the one before them is when the text began
    SELECT t.conversation, t.target, coalesce((SELECT x.conversation_seq FROM chat.event x
      WHERE x.conversation = t.conversation AND x.kind = 3 AND x.target_seq = t.target
      ORDER BY x.conversation_seq DESC OFFSET t.edits LIMIT 1), t.target) AS since_seq
    FROM target t WHERE NOT t.deleted
  ), kept AS (
    INSERT INTO chat.event_version
    SELECT r.conversation, r.target, r.since_seq, e.body
    FROM replaced r
    JOIN chat.event e ON e.conversation = r.conversation AND e.conversation_seq = r.target
    WHERE EXISTS (SELECT FROM chat.member_interval i
      WHERE i.conversation = r.conversation AND i.to_conversation_seq >= r.since_seq)
    ON CONFLICT DO NOTHING
  )
  UPDATE chat.event e
  SET body = p_patch[t.last_edit] || chat.without_content(e.body), flags = e.flags | 16
  FROM target t WHERE NOT t.deleted AND e.conversation = t.conversation
    AND e.conversation_seq = t.target
$$;

-- The first p_entries after p_after and up to p_up_to, contiguous. p_bytes bounds their bodies; one
-- entry always comes. An event that is gone (retention), over or hidden reads as erased; an edited one
-- says what the account may read of it.
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
          OR chat.is_hidden_1(p_account, t.conversation, t.conversation_seq) THEN ''
        WHEN e.flags & 16 > 0
          THEN chat.edited_body_1(p_account, t.conversation, t.conversation_seq, e.body)
        ELSE e.body END AS body,
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

-- As before, but for the text of an edited message.
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
    SELECT * FROM chat.event e
    WHERE e.conversation = c.id AND e.conversation_seq <= x.up_to AND e.flags & 1 = 1
      AND chat.may_read_1(m.account, c.id, e.conversation_seq)
      AND NOT chat.is_hidden_1(m.account, c.id, e.conversation_seq)
    ORDER BY e.conversation_seq DESC LIMIT 1
  ) e ON true
  LEFT JOIN chat.account s ON s.id = e.sender
$$;
