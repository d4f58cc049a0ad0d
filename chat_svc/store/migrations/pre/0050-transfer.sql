-- Leaving with everything, and coming with it: all of one tenant read in a stable order, and the
-- same written into an empty tenant. `chatmesh export` and `chatmesh import` call these.
-- depends: 0022-erasure 0032-hidden 0036-threads 0040-node-sessions 0060-presence-wish
--
-- An import is made of bounded steps, each a transaction that also moves the import's row on: run
-- again, it goes on where it was. Until its last stage every account of it is disabled, so nobody
-- can sign in, write to them or add them to a group: no commit meets a conversation that is half
-- there.
-- Locks: import < conversation < member < timeline_head, as everywhere.

-- Ids of what comes without one, or whose id is taken here: from 1 on, below every Snowflake that a
-- sequencer makes (those of 2026's first minutes).
CREATE SEQUENCE chat.import_id AS bigint;

-- One row per tenant that was imported. stage: 1 lines of the file, 2 timelines, 3 opening, 4 done.
-- digest: SHA-256 of the file. line_no, byte_offset: lines that are in. account, entry_*: the
-- timeline under way and its newest entry.
CREATE TABLE chat.import (
  tenant integer PRIMARY KEY REFERENCES chat.tenant,
  digest bytea NOT NULL,
  stage smallint NOT NULL DEFAULT 1,
  line_no bigint NOT NULL DEFAULT 0,
  byte_offset bigint NOT NULL DEFAULT 0,
  account bigint NOT NULL DEFAULT 0,
  entry_at_ms bigint NOT NULL DEFAULT 0,
  entry_conversation bigint NOT NULL DEFAULT 0,
  entry_seq bigint NOT NULL DEFAULT 0,
  begun_at_ms bigint NOT NULL,
  done_at_ms bigint NOT NULL DEFAULT 0
);
-- Of imports under way: accounts with what is to become of them, conversations with their ids in
-- the file.
CREATE TABLE chat.import_account (
  tenant integer NOT NULL,
  account bigint NOT NULL,
  disabled_at_ms bigint NOT NULL,
  PRIMARY KEY (tenant, account)
);
CREATE TABLE chat.import_conversation (
  tenant integer NOT NULL,
  source_id bigint NOT NULL,
  conversation bigint NOT NULL,
  PRIMARY KEY (tenant, source_id)
);

-- ------------------------------------------------------------------------------------------ export
-- Lines of the file, but for messages, whose bodies the command line takes apart.

CREATE FUNCTION chat.export_users_1(p_tenant integer) RETURNS TABLE (line json)
LANGUAGE sql STABLE AS $$
  SELECT json_build_object('type', 'user', 'user_id', a.external_id, 'kind', a.kind,
    'created_at_ms', a.created_at_ms, 'disabled_at_ms', a.disabled_at_ms,
    'self_conversation_id', a.self_conversation::text,
    'presence_audience', a.presence_audience, 'last_seen_audience', a.last_seen_audience,
    'typing_audience', a.typing_audience, 'receipts_audience', a.receipts_audience,
    'mute', a.mute, 'quiet_start_minute', a.quiet_start_minute,
    'quiet_end_minute', a.quiet_end_minute, 'time_zone', a.time_zone,
    'wish', CASE WHEN w.account IS NULL THEN NULL ELSE json_build_object('state', w.state,
      'status_text', w.status_text, 'status_until_ms', w.status_until_ms) END)
  FROM chat.account a LEFT JOIN chat.presence_wish w ON w.account = a.id
  WHERE a.tenant = p_tenant ORDER BY a.external_id
$$;

CREATE FUNCTION chat.export_contacts_1(p_tenant integer) RETURNS TABLE (line json)
LANGUAGE sql STABLE AS $$
  SELECT json_build_object('type', 'contact', 'owner', o.external_id, 'user_id', x.external_id,
    'state', c.state, 'changed_at_ms', c.changed_at_ms)
  FROM chat.contact c JOIN chat.account o ON o.id = c.owner JOIN chat.account x ON x.id = c.other
  WHERE o.tenant = p_tenant ORDER BY o.external_id, x.external_id
$$;

CREATE FUNCTION chat.export_blocks_1(p_tenant integer) RETURNS TABLE (line json)
LANGUAGE sql STABLE AS $$
  SELECT json_build_object('type', 'block', 'owner', o.external_id, 'user_id', x.external_id,
    'changed_at_ms', b.changed_at_ms)
  FROM chat.block b JOIN chat.account o ON o.id = b.owner JOIN chat.account x ON x.id = b.blocked
  WHERE o.tenant = p_tenant ORDER BY o.external_id, x.external_id
$$;

-- users: of direct conversations the two, of self conversations the owner; '' = was erased.
CREATE FUNCTION chat.export_conversations_1(p_tenant integer) RETURNS TABLE (line json)
LANGUAGE sql STABLE AS $$
  SELECT json_build_object('type', 'conversation', 'conversation_id', c.id::text, 'kind', c.kind,
    'title', c.title, 'users', CASE c.kind
      WHEN 1 THEN to_json(ARRAY[least(coalesce(l.external_id, ''), coalesce(h.external_id, '')),
        greatest(coalesce(l.external_id, ''), coalesce(h.external_id, ''))])
      WHEN 3 THEN to_json(ARRAY[coalesce(l.external_id, '')]) ELSE '[]'::json END,
    'join_policy', c.join_policy, 'history_policy', c.history_policy,
    'govern_version', c.govern_version, 'created_at_ms', c.created_at_ms,
    'active_at_ms', c.last_created_at_ms,
    'first_conversation_seq', coalesce((SELECT e.conversation_seq FROM chat.event e
      WHERE e.conversation = c.id ORDER BY e.conversation_seq LIMIT 1),
      c.last_conversation_seq + 1),
    'last_conversation_seq', c.last_conversation_seq, 'last_message_no', c.last_message_no)
  FROM chat.conversation c
  LEFT JOIN chat.account l ON l.id = c.direct_low LEFT JOIN chat.account h ON h.id = c.direct_high
  WHERE c.tenant = p_tenant ORDER BY c.id
$$;

CREATE FUNCTION chat.export_members_1(p_tenant integer) RETURNS TABLE (line json)
LANGUAGE sql STABLE AS $$
  SELECT json_build_object('type', 'member', 'conversation_id', c.id::text,
    'user_id', a.external_id, 'role', m.role, 'joined_at_ms', m.joined_at_ms, 'gone', m.gone,
    'read_message_no', m.read_message_no, 'read_conversation_seq', m.read_conversation_seq,
    'delivered_conversation_seq', m.delivered_conversation_seq, 'mute', m.mute,
    'mute_until_ms', m.mute_until_ms, 'pinned', m.pinned, 'archived', m.archived,
    'marked_unread', m.marked_unread, 'draft', m.draft,
    'intervals', (SELECT coalesce(json_agg(json_build_array(i.from_conversation_seq,
        i.to_conversation_seq) ORDER BY i.from_conversation_seq), '[]')
      FROM chat.member_interval i WHERE i.conversation = c.id AND i.account = a.id),
    'hidden', (SELECT coalesce(json_agg(h.conversation_seq ORDER BY h.conversation_seq), '[]')
      FROM chat.hidden h WHERE h.account = a.id AND h.conversation = c.id))
  FROM chat.conversation c JOIN chat.member m ON m.conversation = c.id
  JOIN chat.account a ON a.id = m.account
  WHERE c.tenant = p_tenant ORDER BY c.id, a.external_id
$$;

-- From a position on; what is over reads as erased.
CREATE FUNCTION chat.export_messages_1(
  p_tenant integer, p_conversation bigint, p_seq bigint
) RETURNS TABLE (
  conversation bigint, conversation_seq bigint, message_no bigint, id bigint, sender text,
  created_at_ms bigint, expires_at_ms bigint, target_seq bigint, kind smallint, flags smallint,
  key uuid, body bytea
) LANGUAGE sql STABLE AS $$
  SELECT e.conversation, e.conversation_seq, e.message_no, e.id, coalesce(s.external_id, ''),
    e.created_at_ms, e.expires_at_ms, e.target_seq, e.kind,
    (CASE WHEN o.is_over THEN e.flags | 8 ELSE e.flags END)::smallint, e.key,
    CASE WHEN o.is_over THEN '' ELSE e.body END
  FROM chat.conversation c JOIN chat.event e ON e.conversation = c.id
  CROSS JOIN LATERAL (SELECT e.expires_at_ms BETWEEN 1 AND chat.now_ms()) o(is_over)
  LEFT JOIN chat.account s ON s.id = e.sender
  WHERE c.tenant = p_tenant AND c.id >= p_conversation
    AND (e.conversation, e.conversation_seq) > (p_conversation, p_seq)
  ORDER BY e.conversation, e.conversation_seq
$$;

-- ------------------------------------------------------------------------------------------ import

-- The import of that tenant, begun if it was not; no row: the tenant holds something else.
CREATE FUNCTION chat.import_begin_1(p_tenant text, p_digest bytea) RETURNS SETOF chat.import
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_tenant integer;
BEGIN
  INSERT INTO chat.tenant (name) VALUES (p_tenant) ON CONFLICT (name) DO NOTHING;
  SELECT t.id INTO v_tenant FROM chat.tenant t WHERE t.name = p_tenant;
  PERFORM pg_advisory_xact_lock(hashtext('chat.import'), v_tenant);
  IF NOT EXISTS (SELECT FROM chat.import i WHERE i.tenant = v_tenant) THEN
    IF EXISTS (SELECT FROM chat.account a WHERE a.tenant = v_tenant)
        OR EXISTS (SELECT FROM chat.conversation c WHERE c.tenant = v_tenant) THEN
      RETURN;
    END IF;
    INSERT INTO chat.import (tenant, digest, begun_at_ms)
    VALUES (v_tenant, p_digest, chat.now_ms());
  END IF;
  RETURN QUERY SELECT i.* FROM chat.import i WHERE i.tenant = v_tenant;
END $$;

-- Moves the import on over lines; an error when it is not where the caller believes it to be.
CREATE FUNCTION chat.import_move_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  UPDATE chat.import i SET line_no = p_line_no + p_lines, byte_offset = p_byte_offset
  WHERE i.tenant = p_tenant AND i.stage = 1 AND i.line_no = p_line_no;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another import of this tenant is under way' USING ERRCODE = 'object_in_use';
  END IF;
END $$;

-- An id for a conversation of the file: its own where nobody has it here.
CREATE FUNCTION chat.import_conversation_id_1(p_source bigint) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
  SELECT CASE WHEN EXISTS (SELECT FROM chat.conversation c WHERE c.id = p_source)
      OR EXISTS (SELECT FROM chat.import_conversation m WHERE m.conversation = p_source)
    THEN nextval('chat.import_id') ELSE p_source END
$$;
CREATE INDEX import_conversation_taken ON chat.import_conversation (conversation);

CREATE FUNCTION chat.import_users_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint, p_rows jsonb
) RETURNS void LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  WITH x AS MATERIALIZED (
    SELECT r.*, nextval('chat.import_id') AS id, u.value -> 'wish' AS wish
    FROM jsonb_array_elements(p_rows) u(value),
      jsonb_to_record(u.value) r(user_id text, kind smallint, created_at_ms bigint,
        disabled_at_ms bigint, self_conversation_id bigint, presence_audience smallint,
        last_seen_audience smallint, typing_audience smallint, receipts_audience smallint,
        mute smallint, quiet_start_minute smallint, quiet_end_minute smallint, time_zone text)
  ), own AS MATERIALIZED (
    SELECT x.id AS account, x.self_conversation_id AS source,
      chat.import_conversation_id_1(x.self_conversation_id) AS conversation FROM x
  ), made AS (
    INSERT INTO chat.account (id, tenant, external_id, kind, created_at_ms, disabled_at_ms,
      self_conversation, presence_audience, last_seen_audience, typing_audience,
      receipts_audience, mute, quiet_start_minute, quiet_end_minute, time_zone,
      tokens_not_before_ms)
    SELECT x.id, p_tenant, x.user_id, x.kind, x.created_at_ms, chat.now_ms(), o.conversation,
      x.presence_audience, x.last_seen_audience, x.typing_audience, x.receipts_audience, x.mute,
      x.quiet_start_minute, x.quiet_end_minute, x.time_zone,
      chat.erased_at_1(p_tenant, x.user_id)
    FROM x JOIN own o ON o.account = x.id
    RETURNING id
  ), head AS (
    INSERT INTO chat.timeline_head (account, tenant, disabled) SELECT x.id, p_tenant, true FROM x
  ), mapped AS (
    INSERT INTO chat.import_conversation SELECT p_tenant, o.source, o.conversation FROM own o
  ), noted AS (
    INSERT INTO chat.import_account SELECT p_tenant, x.id, x.disabled_at_ms FROM x
  )
  INSERT INTO chat.presence_wish (account, state, status_text, status_until_ms, wish_no)
  SELECT m.id, (x.wish ->> 'state')::smallint, x.wish ->> 'status_text',
    (x.wish ->> 'status_until_ms')::bigint, chat.now_ms()
  FROM made m JOIN x ON x.id = m.id WHERE jsonb_typeof(x.wish) = 'object';
END $$;

CREATE FUNCTION chat.import_contacts_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint, p_rows jsonb
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  INSERT INTO chat.contact (owner, other, state, changed_at_ms)
  SELECT o.id, a.id, x.state, x.changed_at_ms
  FROM jsonb_to_recordset(p_rows) x(owner text, user_id text, state smallint, changed_at_ms bigint)
  JOIN chat.account o ON o.tenant = p_tenant AND o.external_id = x.owner
  JOIN chat.account a ON a.tenant = p_tenant AND a.external_id = x.user_id;
END $$;

CREATE FUNCTION chat.import_blocks_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint, p_rows jsonb
) RETURNS void LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  v_owners bigint[];
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  v_owners := ARRAY(SELECT o.id FROM jsonb_to_recordset(p_rows) x(owner text)
    JOIN chat.account o ON o.tenant = p_tenant AND o.external_id = x.owner);
  PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_owners)
  ORDER BY h.account FOR NO KEY UPDATE;
  WITH made AS (
    INSERT INTO chat.block (owner, blocked, changed_at_ms)
    SELECT o.id, a.id, x.changed_at_ms
    FROM jsonb_to_recordset(p_rows) x(owner text, user_id text, changed_at_ms bigint)
    JOIN chat.account o ON o.tenant = p_tenant AND o.external_id = x.owner
    JOIN chat.account a ON a.tenant = p_tenant AND a.external_id = x.user_id
    RETURNING owner
  )
  UPDATE chat.timeline_head h SET blocks = h.blocks + m.count
  FROM (SELECT owner, count(*)::integer AS count FROM made GROUP BY owner) m
  WHERE h.account = m.owner;
END $$;

-- Their heads stand before the first event of the file and rise with the events: readers behind the
-- commit (search, retention) never see a head above what is stored. A direct conversation's member
-- who was erased gets an account number of nobody, with a head that refuses everything.
CREATE FUNCTION chat.import_conversations_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint, p_rows jsonb
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  WITH x AS MATERIALIZED (
    SELECT r.conversation_id AS source, r.kind, r.title, r.users, r.join_policy, r.history_policy,
      r.govern_version, r.created_at_ms, r.active_at_ms, r.first_conversation_seq - 1 AS head,
      r.last_message_no, m.conversation AS known
    FROM jsonb_to_recordset(p_rows) r(conversation_id bigint, kind smallint, title text,
      users jsonb, join_policy smallint, history_policy smallint, govern_version integer,
      created_at_ms bigint, active_at_ms bigint, first_conversation_seq bigint,
      last_message_no bigint)
    LEFT JOIN chat.import_conversation m ON m.tenant = p_tenant AND m.source_id = r.conversation_id
    ORDER BY r.conversation_id
  ), placed AS MATERIALIZED (
    SELECT x.source, coalesce(x.known, chat.import_conversation_id_1(x.source)) AS conversation
    FROM x
  ), side AS MATERIALIZED (
    SELECT x.source, coalesce(a.id, nextval('chat.import_id')) AS account, a.id IS NULL AS is_ghost
    FROM x CROSS JOIN LATERAL jsonb_array_elements_text(x.users) u(name)
    LEFT JOIN chat.account a ON a.tenant = p_tenant AND a.external_id = u.name AND u.name <> ''
  ), ghost AS (
    INSERT INTO chat.timeline_head (account, tenant, disabled)
    SELECT s.account, p_tenant, true FROM side s WHERE s.is_ghost
  ), mapped AS (
    INSERT INTO chat.import_conversation SELECT p_tenant, p.source, p.conversation
    FROM placed p JOIN x ON x.source = p.source AND x.known IS NULL
  )
  INSERT INTO chat.conversation (id, tenant, kind, join_policy, history_policy, member_count,
    govern_version, last_conversation_seq, last_message_no, last_created_at_ms, created_at_ms,
    direct_low, direct_high, title)
  SELECT p.conversation, p_tenant, x.kind, x.join_policy, x.history_policy, 0, x.govern_version,
    x.head, x.last_message_no, x.active_at_ms, x.created_at_ms,
    (SELECT min(s.account) FROM side s WHERE s.source = x.source),
    (SELECT max(s.account) FROM side s WHERE s.source = x.source), x.title
  FROM x JOIN placed p ON p.source = x.source;
END $$;

CREATE FUNCTION chat.import_members_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint, p_rows jsonb
) RETURNS void LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  PERFORM FROM chat.conversation c WHERE c.id IN (SELECT m.conversation
    FROM jsonb_to_recordset(p_rows) r(conversation_id bigint)
    JOIN chat.import_conversation m ON m.tenant = p_tenant AND m.source_id = r.conversation_id)
  ORDER BY c.id FOR NO KEY UPDATE;
  WITH x AS MATERIALIZED (
    SELECT r.*, m.conversation, a.id AS account
    FROM jsonb_to_recordset(p_rows) r(conversation_id bigint, user_id text, role smallint,
      joined_at_ms bigint, gone boolean, read_message_no bigint, read_conversation_seq bigint,
      delivered_conversation_seq bigint, mute smallint, mute_until_ms bigint, pinned boolean,
      archived boolean, marked_unread boolean, draft text, intervals jsonb, hidden jsonb)
    JOIN chat.import_conversation m ON m.tenant = p_tenant AND m.source_id = r.conversation_id
    JOIN chat.account a ON a.tenant = p_tenant AND a.external_id = r.user_id
  ), made AS (
    INSERT INTO chat.member (conversation, account, joined_at_ms, read_message_no,
      read_conversation_seq, delivered_conversation_seq, mute_until_ms, role, mute, gone, pinned,
      archived, marked_unread, draft)
    SELECT x.conversation, x.account, x.joined_at_ms, x.read_message_no, x.read_conversation_seq,
      x.delivered_conversation_seq, x.mute_until_ms, x.role, x.mute, x.gone, x.pinned,
      x.archived, x.marked_unread, x.draft FROM x
  ), intervals AS (
    INSERT INTO chat.member_interval
    SELECT x.conversation, x.account, (i.value ->> 0)::bigint, (i.value ->> 1)::bigint
    FROM x CROSS JOIN LATERAL jsonb_array_elements(x.intervals) i(value)
  ), hidden AS (
    INSERT INTO chat.hidden SELECT x.account, x.conversation, h.value::bigint
    FROM x CROSS JOIN LATERAL jsonb_array_elements_text(x.hidden) h(value)
  )
  UPDATE chat.conversation c SET member_count = c.member_count + m.count
  FROM (SELECT x.conversation, count(*)::integer AS count FROM x WHERE NOT x.gone
    GROUP BY x.conversation) m
  WHERE c.id = m.conversation;
END $$;

-- Flags as of chat.event: 1 visible, 2 notifies, 8 erased, 16 edited. p_sender: '' = was erased.
-- p_mention_row, p_mention: users mentioned by row, from 1.
CREATE FUNCTION chat.import_messages_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint,
  p_conversation bigint[], p_seq bigint[], p_no bigint[], p_id bigint[], p_sender text[],
  p_created_at_ms bigint[], p_expires_at_ms bigint[], p_target bigint[], p_kind smallint[],
  p_flags smallint[], p_key uuid[], p_body bytea[], p_mention_row integer[], p_mention text[]
) RETURNS void LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  v_count bigint;
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  PERFORM FROM chat.conversation c WHERE c.id IN (SELECT m.conversation
    FROM chat.import_conversation m
    WHERE m.tenant = p_tenant AND m.source_id = ANY (p_conversation))
  ORDER BY c.id FOR NO KEY UPDATE;
  INSERT INTO chat.event (conversation, conversation_seq, message_no, id, sender, created_at_ms,
    expires_at_ms, target_seq, kind, flags, key, body, trace, mentions)
  SELECT c.id, x.seq, x.no, x.id, coalesce(a.id, g.id, 0), x.created_at_ms, x.expires_at_ms,
    x.target, x.kind, x.flags, x.key, x.body, '',
    nullif(ARRAY(SELECT b.id FROM unnest(p_mention_row, p_mention) t(n, name)
      JOIN chat.account b ON b.tenant = p_tenant AND b.external_id = t.name
      WHERE t.n = x.n ORDER BY b.id), '{}')
  FROM unnest(p_conversation, p_seq, p_no, p_id, p_sender, p_created_at_ms, p_expires_at_ms,
    p_target, p_kind, p_flags, p_key, p_body) WITH ORDINALITY
    x(source, seq, no, id, sender, created_at_ms, expires_at_ms, target, kind, flags, key, body, n)
  JOIN chat.import_conversation m ON m.tenant = p_tenant AND m.source_id = x.source
  JOIN chat.conversation c ON c.id = m.conversation
  LEFT JOIN chat.account a
    ON a.tenant = p_tenant AND a.external_id = x.sender AND x.sender <> ''
  LEFT JOIN LATERAL (SELECT s.id FROM unnest(ARRAY[c.direct_low, c.direct_high]) s(id)
    WHERE c.kind = 1 AND NOT EXISTS (SELECT FROM chat.account b WHERE b.id = s.id) LIMIT 1) g
    ON true;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  IF v_count <> cardinality(p_id) THEN
    RAISE EXCEPTION 'a message is of no conversation of the import';
  END IF;
  UPDATE chat.conversation c SET last_conversation_seq = x.last
  FROM (SELECT m.conversation, max(t.seq) AS last FROM unnest(p_conversation, p_seq) t(source, seq)
    JOIN chat.import_conversation m ON m.tenant = p_tenant AND m.source_id = t.source
    GROUP BY m.conversation) x
  WHERE c.id = x.conversation;
END $$;

-- After the last line: timelines come next.
CREATE FUNCTION chat.import_lines_done_1(
  p_tenant integer, p_line_no bigint, p_lines bigint, p_byte_offset bigint
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM chat.import_move_1(p_tenant, p_line_no, p_lines, p_byte_offset);
  UPDATE chat.import i SET stage = 2 WHERE i.tenant = p_tenant;
END $$;

-- At most p_rows entries of timelines: what each account may read, in the order of time. Within a
-- conversation time never falls, so this keeps the conversation's order. Accounts go by number, so
-- heads are locked in order.
CREATE FUNCTION chat.import_timelines_1(
  p_tenant integer, p_rows integer, OUT entries bigint, OUT accounts bigint, OUT is_over boolean
) LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' SET enable_seqscan = off
SET enable_hashjoin = off AS $$
DECLARE
  s chat.import;
  v_left integer := p_rows;
  v_account bigint;
  v_count integer;
  v_head bigint;
BEGIN
  entries := 0;
  accounts := 0;
  is_over := false;
  SELECT * INTO s FROM chat.import i WHERE i.tenant = p_tenant FOR NO KEY UPDATE;
  IF s.stage IS DISTINCT FROM 2 THEN
    is_over := true;
    RETURN;
  END IF;
  WHILE v_left > 0 LOOP
    v_account := CASE WHEN s.entry_conversation > 0 THEN s.account ELSE (SELECT a.account
      FROM chat.import_account a WHERE a.tenant = p_tenant AND a.account > s.account
      ORDER BY a.account LIMIT 1) END;
    IF v_account IS NULL THEN
      s.stage := 3;
      s.account := 0;
      is_over := true;
      EXIT;
    END IF;
    SELECT h.seq INTO v_head FROM chat.timeline_head h WHERE h.account = v_account
    FOR NO KEY UPDATE;
    WITH mine AS MATERIALIZED (
      SELECT DISTINCT e.created_at_ms, e.conversation, e.conversation_seq
      FROM chat.member m
      JOIN chat.member_interval i ON i.conversation = m.conversation AND i.account = m.account
      CROSS JOIN LATERAL (SELECT e.created_at_ms, e.conversation, e.conversation_seq
        FROM chat.event e WHERE e.conversation = i.conversation
          AND e.conversation_seq >= i.from_conversation_seq
          AND (i.to_conversation_seq IS NULL OR e.conversation_seq <= i.to_conversation_seq)
          AND (e.created_at_ms, e.conversation, e.conversation_seq)
            > (s.entry_at_ms, s.entry_conversation, s.entry_seq)
        ORDER BY e.conversation_seq LIMIT v_left) e
      WHERE m.account = v_account
      ORDER BY e.created_at_ms, e.conversation, e.conversation_seq LIMIT v_left
    ), made AS (
      INSERT INTO chat.timeline (account, timeline_seq, conversation, conversation_seq)
      SELECT v_account, v_head + row_number() OVER (ORDER BY x.created_at_ms, x.conversation,
        x.conversation_seq), x.conversation, x.conversation_seq
      FROM mine x
    )
    SELECT count(*), (array_agg(x.created_at_ms ORDER BY x.created_at_ms DESC, x.conversation DESC,
        x.conversation_seq DESC))[1],
      (array_agg(x.conversation ORDER BY x.created_at_ms DESC, x.conversation DESC,
        x.conversation_seq DESC))[1],
      (array_agg(x.conversation_seq ORDER BY x.created_at_ms DESC, x.conversation DESC,
        x.conversation_seq DESC))[1]
    INTO v_count, s.entry_at_ms, s.entry_conversation, s.entry_seq FROM mine x;
    UPDATE chat.timeline_head h SET seq = h.seq + v_count WHERE h.account = v_account;
    entries := entries + v_count;
    IF v_count < v_left THEN  -- this account has all of its own
      accounts := accounts + 1;
      s.entry_at_ms := 0;
      s.entry_conversation := 0;
      s.entry_seq := 0;
    END IF;
    s.account := v_account;
    v_left := v_left - v_count - 1;  -- an account costs something, too
  END LOOP;
  UPDATE chat.import i SET stage = s.stage, account = s.account, entry_at_ms = s.entry_at_ms,
    entry_conversation = s.entry_conversation, entry_seq = s.entry_seq
  WHERE i.tenant = p_tenant;
END $$;

-- Opens at most p_rows accounts: each is as it was in the file. After the last the import is done.
CREATE FUNCTION chat.import_open_1(
  p_tenant integer, p_rows integer, OUT accounts bigint, OUT is_over boolean
) LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  v_accounts bigint[];
  v_stage smallint;
BEGIN
  SELECT i.stage INTO v_stage FROM chat.import i WHERE i.tenant = p_tenant FOR NO KEY UPDATE;
  is_over := v_stage IS DISTINCT FROM 3;
  accounts := 0;
  IF is_over THEN
    RETURN;
  END IF;
  v_accounts := ARRAY(SELECT a.account FROM chat.import_account a WHERE a.tenant = p_tenant
    ORDER BY a.account LIMIT p_rows);
  accounts := cardinality(v_accounts);
  PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_accounts)
  ORDER BY h.account FOR NO KEY UPDATE;
  UPDATE chat.timeline_head h SET disabled = a.disabled_at_ms > 0
  FROM chat.import_account a WHERE a.tenant = p_tenant AND a.account = ANY (v_accounts)
    AND h.account = a.account;
  UPDATE chat.account x SET disabled_at_ms = a.disabled_at_ms,
    standing_changed_at_ms = chat.now_ms()
  FROM chat.import_account a WHERE a.tenant = p_tenant AND a.account = ANY (v_accounts)
    AND x.id = a.account;
  DELETE FROM chat.import_account a WHERE a.tenant = p_tenant AND a.account = ANY (v_accounts);
  IF accounts < p_rows THEN
    DELETE FROM chat.import_conversation m WHERE m.tenant = p_tenant;
    UPDATE chat.import i SET stage = 4, done_at_ms = chat.now_ms() WHERE i.tenant = p_tenant;
    is_over := true;
  END IF;
END $$;
