-- Who may write to whom, and how often one may react: checks of the commits, under their locks.
-- depends: 0009-govern-1 0030-retention
--
-- Two settings of the connection, made by the node: chatmesh.reach (`contacts`: only accepted
-- contacts may write to each other or be added to a group; a change of a contact holds both heads,
-- as the commit does) and chatmesh.max_reactions (of one account to one message; status 10). They are
-- no arguments, so that nodes of two releases call the same functions side by side.

-- Reactions of one account to one message: what the check counts.
CREATE INDEX event_reaction ON chat.event (conversation, target_seq, sender) WHERE kind = 5;

CREATE OR REPLACE FUNCTION chat.check_targets_1(
  p_status smallint[], p_sender bigint[], p_conversation bigint[], p_kind smallint[],
  p_target bigint[], p_mention_row integer[], p_mention bigint[], p_edit_window_ms bigint,
  p_now_ms bigint
) RETURNS smallint[] LANGUAGE sql VOLATILE AS $$
  WITH checked AS (
    SELECT t.n, t.conversation, t.kind, t.target, t.sender,
      CASE WHEN t.kind = 5 THEN (SELECT count(*) FROM chat.event r
        WHERE r.conversation = t.conversation AND r.target_seq = t.target AND r.kind = 5
          AND r.sender = t.sender) ELSE 0 END AS reactions, CASE
        WHEN t.status <> 0 THEN t.status
        WHEN t.target > 0 AND (e.id IS NULL OR e.flags & 9 <> 1
          OR e.expires_at_ms BETWEEN 1 AND p_now_ms
          OR NOT EXISTS (SELECT FROM chat.member_interval i
            WHERE i.conversation = t.conversation AND i.account = t.sender
              AND t.target >= i.from_conversation_seq
              AND (i.to_conversation_seq IS NULL OR t.target <= i.to_conversation_seq))) THEN 5
        WHEN t.kind = 3 AND e.sender <> t.sender THEN 6
        WHEN t.kind = 3 AND p_edit_window_ms > 0
          AND e.created_at_ms + p_edit_window_ms < p_now_ms THEN 7
        WHEN t.kind = 4 AND e.sender <> t.sender AND (SELECT m.role FROM chat.member m
          WHERE m.conversation = t.conversation AND m.account = t.sender) < 2 THEN 6
        WHEN t.n = ANY (ARRAY(SELECT x.n FROM unnest(p_mention_row, p_mention) x(n, account)
          WHERE NOT EXISTS (SELECT FROM chat.member m WHERE m.conversation = p_conversation[x.n]
            AND m.account = x.account AND NOT m.gone))) THEN 8
        ELSE 0 END AS status
    FROM unnest(p_status, p_sender, p_conversation, p_kind, p_target)
      WITH ORDINALITY t(status, sender, conversation, kind, target, n)
    LEFT JOIN LATERAL (SELECT * FROM chat.event e WHERE t.target > 0
      AND e.conversation = t.conversation AND e.conversation_seq = t.target LIMIT 1) e ON true
  ), ordered AS (
    -- what is deleted within the batch is gone for those after it
    SELECT c.n, c.status, c.kind = 5 AND c.reactions + count(*) FILTER (WHERE c.kind = 5
      AND c.status = 0) OVER (PARTITION BY c.conversation, c.target, c.sender
        ORDER BY c.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
      >= coalesce(nullif(current_setting('chatmesh.max_reactions', true), ''), '100')::integer
      AS flood, c.target > 0 AND coalesce(
      bool_or(c.kind = 4 AND c.status = 0) OVER (PARTITION BY c.conversation, c.target
        ORDER BY c.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), false) AS late
    FROM checked c
  )
  SELECT array_agg(CASE WHEN o.late AND o.status = 0 THEN 5
    WHEN o.flood AND o.status = 0 THEN 10 ELSE o.status END::smallint ORDER BY o.n)
  FROM ordered o
$$;

CREATE OR REPLACE FUNCTION chat.commit_1(
  p_id bigint[], p_tenant integer[], p_sender bigint[], p_conversation bigint[],
  p_kind smallint[], p_flags smallint[], p_key uuid[], p_hash bigint[], p_target bigint[],
  p_expires_at_ms bigint[], p_body bytea[], p_trace bytea[], p_patch bytea[],
  p_mention_row integer[], p_mention bigint[], p_edit_window_ms bigint,
  p_batch_id bigint, p_node bigint, p_done bigint[]
) RETURNS TABLE (
  row_no integer, status smallint, message_id bigint, conversation_id bigint,
  conversation_seq bigint, message_no bigint, created_at_ms bigint, account bigint,
  timeline_seq bigint, bits smallint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_accounts bigint[];
  v_status smallint[];
  v_now_ms bigint;
  v_targets boolean := 0 < ANY (p_target) OR p_mention_row <> '{}';
  v_contacts_only boolean :=
    coalesce(current_setting('chatmesh.reach', true), '') = 'contacts';
  v_low_key uuid;
  v_high_key uuid;
BEGIN
  IF current_setting('plan_cache_mode') <> 'force_generic_plan' THEN
    PERFORM chat.prepare_lane();
  END IF;

  -- locks
  PERFORM FROM chat.conversation c WHERE c.id = ANY (p_conversation)
  ORDER BY c.id FOR NO KEY UPDATE;
  v_accounts := ARRAY(SELECT m.account FROM chat.member m
    WHERE m.conversation = ANY (p_conversation) AND NOT m.gone
    UNION SELECT s FROM unnest(p_sender) s);
  PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_accounts)
  ORDER BY h.account FOR NO KEY UPDATE;
  v_now_ms := chat.now_ms();
  v_low_key := (SELECT k FROM unnest(p_key) k ORDER BY k LIMIT 1);
  v_high_key := (SELECT k FROM unnest(p_key) k ORDER BY k DESC LIMIT 1);

  -- checks
  v_status := ARRAY(SELECT CASE
      WHEN k.sender IS NOT NULL THEN
        CASE WHEN k.content_hash >> 56 = t.hash >> 56 AND k.content_hash <> t.hash
          THEN 2 ELSE 1 END
      WHEN c.id IS NULL OR m.account IS NULL OR h.disabled OR h.tenant <> c.tenant THEN 3
      WHEN o.disabled OR (h.blocks > 0 OR o.blocks > 0) AND EXISTS (SELECT FROM chat.block b
        WHERE b.owner = t.sender AND b.blocked = o.account
          OR b.owner = o.account AND b.blocked = t.sender) THEN 4
      WHEN v_contacts_only AND c.kind = 1 AND NOT (
        EXISTS (SELECT FROM chat.contact x
          WHERE x.owner = t.sender AND x.other = o.account AND x.state = 3)
        AND EXISTS (SELECT FROM chat.contact x
          WHERE x.owner = o.account AND x.other = t.sender AND x.state = 3)) THEN 4
      ELSE 0 END::smallint
    FROM unnest(p_tenant, p_sender, p_conversation, p_key, p_hash)
      WITH ORDINALITY t(tenant, sender, conversation, key, hash, n)
    LEFT JOIN LATERAL (SELECT * FROM chat.idempotency_key k
      WHERE k.key BETWEEN v_low_key AND v_high_key
        AND k.key = t.key AND k.sender = t.sender LIMIT 1) k ON true
    LEFT JOIN chat.conversation c ON c.id = t.conversation AND c.tenant = t.tenant
    LEFT JOIN chat.member m ON m.conversation = t.conversation AND m.account = t.sender
      AND NOT m.gone
    LEFT JOIN chat.timeline_head h ON h.account = t.sender
    LEFT JOIN chat.timeline_head o ON c.kind = 1
      AND o.account = CASE WHEN c.direct_low = t.sender THEN c.direct_high ELSE c.direct_low END
    ORDER BY t.n);
  IF v_targets THEN
    v_status := chat.check_targets_1(v_status, p_sender, p_conversation, p_kind, p_target,
      p_mention_row, p_mention, p_edit_window_ms, v_now_ms);
  END IF;

  -- numbers and writes
  IF 0 = ANY (v_status) THEN
    RETURN QUERY
    WITH m AS MATERIALIZED (
      SELECT t.n, t.id, t.sender, t.conversation, t.key, t.hash, t.flags, c.tenant,
        c.last_conversation_seq + row_number() OVER w AS seq,
        c.last_message_no + sum(t.flags & 1) OVER w AS running_no,
        greatest(v_now_ms, c.last_created_at_ms) AS at_ms
      FROM unnest(v_status, p_id, p_sender, p_conversation, p_key, p_hash, p_flags)
        WITH ORDINALITY t(status, id, sender, conversation, key, hash, flags, n)
      JOIN chat.conversation c ON c.id = t.conversation
      WHERE t.status = 0
      WINDOW w AS (PARTITION BY t.conversation ORDER BY t.n)
    ), f AS MATERIALIZED (
      SELECT m.*, a.account, a.account = m.sender AS own,
        h.seq + row_number() OVER (PARTITION BY a.account ORDER BY m.n) AS timeline_seq,
        h.devices > CASE WHEN a.account = m.sender AND m.flags & 4 = 0 THEN 1 ELSE 0 END AS hinted,
        h.push_devices > 0 AND m.flags & 2 > 0 AND a.account <> m.sender AS pushable
      FROM m
      JOIN chat.member a ON a.conversation = m.conversation AND NOT a.gone
      JOIN chat.timeline_head h ON h.account = a.account AND h.tenant = m.tenant
    ), mention AS MATERIALIZED (
      SELECT x.n, array_agg(x.account) AS accounts
      FROM unnest(p_mention_row, p_mention) x(n, account) GROUP BY x.n
    ), new_event AS (
      INSERT INTO chat.event
      SELECT m.conversation, m.seq, CASE WHEN m.flags & 1 > 0 THEN m.running_no ELSE 0 END, m.id,
        m.sender, m.at_ms, p_expires_at_ms[m.n], p_target[m.n], p_kind[m.n], m.flags & 3, m.key,
        p_body[m.n], p_trace[m.n], x.accounts
      FROM m LEFT JOIN mention x ON x.n = m.n
    ), new_entry AS (
      INSERT INTO chat.timeline SELECT f.account, f.timeline_seq, f.conversation, f.seq FROM f
    ), new_key AS (
      INSERT INTO chat.idempotency_key
      SELECT f.key, f.sender, f.hash, f.id, f.conversation, f.seq,
        CASE WHEN f.flags & 1 > 0 THEN f.running_no ELSE 0 END, f.timeline_seq, f.at_ms
      FROM f WHERE f.own
    ), conversation_head AS (
      UPDATE chat.conversation c SET last_conversation_seq = x.seq, last_message_no = x.no,
        last_created_at_ms = x.at_ms
      FROM (SELECT m.conversation, max(m.seq) AS seq, max(m.running_no) AS no,
          max(m.at_ms) AS at_ms FROM m GROUP BY m.conversation) x
      WHERE c.id = x.conversation
    ), account_head AS (
      UPDATE chat.timeline_head h SET seq = x.seq, notify_seq = greatest(h.notify_seq, x.notify)
      FROM (SELECT f.account, max(f.timeline_seq) AS seq,
          max(f.timeline_seq) FILTER (WHERE f.flags & 2 > 0 AND NOT f.own) AS notify
        FROM f GROUP BY f.account) x
      WHERE h.account = x.account
    ), new_outbox AS (
      INSERT INTO chat.outbox
      SELECT p_batch_id, p_node, v_now_ms, v_now_ms, 0, array_agg(f.account),
        array_agg(f.timeline_seq), array_agg(f.id), array_agg(f.pushable)
      FROM f WHERE f.hinted HAVING count(*) > 0
    )
    SELECT f.n::integer, 0::smallint, f.id, f.conversation, f.seq,
      CASE WHEN f.flags & 1 > 0 THEN f.running_no ELSE 0 END, f.at_ms, f.account, f.timeline_seq,
      (f.hinted::integer + 2 * f.pushable::integer)::smallint
    FROM f;
    IF v_targets THEN
      PERFORM chat.apply_targets_1(v_status, p_conversation, p_kind, p_target, p_patch);
    END IF;
  END IF;

  -- answers of earlier keys, and refusals
  IF 0 < ANY (v_status) THEN
    RETURN QUERY
    SELECT t.n::integer, t.status, coalesce(k.message_id, 0), coalesce(k.conversation, 0),
      coalesce(k.conversation_seq, 0), coalesce(k.message_no, 0), coalesce(k.created_at_ms, 0),
      t.sender, coalesce(k.timeline_seq, 0), 0::smallint
    FROM unnest(v_status, p_sender, p_key) WITH ORDINALITY t(status, sender, key, n)
    LEFT JOIN LATERAL (SELECT * FROM chat.idempotency_key k
      WHERE t.status = 1 AND k.key BETWEEN v_low_key AND v_high_key
        AND k.key = t.key AND k.sender = t.sender LIMIT 1) k ON true
    WHERE t.status > 0;
    IF NOT 0 = ANY (v_status) AND 1 = ANY (v_status) THEN
      -- an answer for a commit made elsewhere: wait for the standby as that commit did
      PERFORM pg_logical_emit_message(true, 'chatmesh', '');
    END IF;
  END IF;
  IF p_done <> '{}' THEN
    DELETE FROM chat.outbox o WHERE o.batch_id = ANY (p_done);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION chat.commit_one_1(
  p_id bigint, p_tenant integer, p_sender bigint, p_conversation bigint, p_kind smallint,
  p_flags smallint, p_key uuid, p_hash bigint, p_target bigint, p_expires_at_ms bigint,
  p_body bytea, p_trace bytea, p_patch bytea, p_mention bigint[], p_edit_window_ms bigint,
  p_batch_id bigint, p_node bigint, p_done bigint[]
) RETURNS TABLE (
  row_no integer, status smallint, message_id bigint, conversation_id bigint,
  conversation_seq bigint, message_no bigint, created_at_ms bigint, account bigint,
  timeline_seq bigint, bits smallint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  c record;
  k record;
  v_members bigint[];
  v_now_ms bigint;
  v_seq bigint;
  v_no bigint;
  v_status smallint;
BEGIN
  IF current_setting('plan_cache_mode') <> 'force_generic_plan' THEN
    PERFORM chat.prepare_lane();
  END IF;

  -- locks
  SELECT * INTO c FROM chat.conversation x WHERE x.id = p_conversation FOR NO KEY UPDATE;
  v_members := ARRAY(SELECT m.account FROM chat.member m
    WHERE m.conversation = p_conversation AND NOT m.gone);
  PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_members || p_sender)
  ORDER BY h.account FOR NO KEY UPDATE;
  v_now_ms := chat.now_ms();

  -- checks
  SELECT * INTO k FROM chat.idempotency_key x WHERE x.key = p_key AND x.sender = p_sender;
  IF FOUND THEN
    v_status := CASE WHEN k.content_hash >> 56 = p_hash >> 56 AND k.content_hash <> p_hash
      THEN 2 ELSE 1 END;
  ELSIF c.id IS NULL OR c.tenant <> p_tenant OR NOT p_sender = ANY (v_members) THEN
    v_status := 3;
  ELSE
    v_status := (SELECT CASE WHEN h.disabled OR h.tenant <> p_tenant THEN 3
        WHEN o.disabled OR (h.blocks > 0 OR o.blocks > 0) AND EXISTS (SELECT FROM chat.block b
          WHERE b.owner = p_sender AND b.blocked = o.account
            OR b.owner = o.account AND b.blocked = p_sender) THEN 4
        WHEN c.kind = 1 AND coalesce(current_setting('chatmesh.reach', true), '') = 'contacts'
          AND NOT (EXISTS (SELECT FROM chat.contact x
              WHERE x.owner = p_sender AND x.other = o.account AND x.state = 3)
            AND EXISTS (SELECT FROM chat.contact x
              WHERE x.owner = o.account AND x.other = p_sender AND x.state = 3)) THEN 4
        ELSE 0 END
      FROM chat.timeline_head h
      LEFT JOIN chat.timeline_head o ON c.kind = 1
        AND o.account = CASE WHEN c.direct_low = p_sender THEN c.direct_high ELSE c.direct_low END
      WHERE h.account = p_sender);
  END IF;
  IF v_status = 0 AND (p_target > 0 OR p_mention <> '{}') THEN
    v_status := (chat.check_targets_1(ARRAY[v_status], ARRAY[p_sender], ARRAY[p_conversation],
      ARRAY[p_kind], ARRAY[p_target], array_fill(1, ARRAY[cardinality(p_mention)]), p_mention,
      p_edit_window_ms, v_now_ms))[1];
  END IF;

  -- numbers and writes
  IF v_status = 0 THEN
    v_now_ms := greatest(v_now_ms, c.last_created_at_ms);
    v_seq := c.last_conversation_seq + 1;
    v_no := c.last_message_no + (p_flags & 1);
    RETURN QUERY
    WITH head AS (
      UPDATE chat.timeline_head h SET seq = h.seq + 1, notify_seq = CASE
        WHEN p_flags & 2 > 0 AND h.account <> p_sender THEN h.seq + 1 ELSE h.notify_seq END
      WHERE h.account = ANY (v_members) AND h.tenant = c.tenant
      RETURNING h.account, h.seq,
        h.devices > CASE WHEN h.account = p_sender AND p_flags & 4 = 0 THEN 1 ELSE 0 END AS hinted,
        h.push_devices > 0 AND p_flags & 2 > 0 AND h.account <> p_sender AS pushable
    ), conversation_head AS (
      UPDATE chat.conversation x SET last_conversation_seq = v_seq, last_message_no = v_no,
        last_created_at_ms = v_now_ms
      WHERE x.id = p_conversation
    ), new_event AS (
      INSERT INTO chat.event VALUES (p_conversation, v_seq,
        CASE WHEN p_flags & 1 > 0 THEN v_no ELSE 0 END, p_id, p_sender, v_now_ms, p_expires_at_ms,
        p_target, p_kind, p_flags & 3, p_key, p_body, p_trace, nullif(p_mention, '{}'))
    ), new_entry AS (
      INSERT INTO chat.timeline SELECT h.account, h.seq, p_conversation, v_seq FROM head h
    ), new_key AS (
      INSERT INTO chat.idempotency_key
      SELECT p_key, p_sender, p_hash, p_id, p_conversation, v_seq,
        CASE WHEN p_flags & 1 > 0 THEN v_no ELSE 0 END, h.seq, v_now_ms
      FROM head h WHERE h.account = p_sender
    ), new_outbox AS (
      INSERT INTO chat.outbox
      SELECT p_batch_id, p_node, v_now_ms, v_now_ms, 0, array_agg(h.account), array_agg(h.seq),
        array_agg(p_id), array_agg(h.pushable)
      FROM head h WHERE h.hinted HAVING count(*) > 0
    )
    SELECT 1, 0::smallint, p_id, p_conversation, v_seq,
      CASE WHEN p_flags & 1 > 0 THEN v_no ELSE 0 END, v_now_ms, h.account, h.seq,
      (h.hinted::integer + 2 * h.pushable::integer)::smallint
    FROM head h;
    IF p_kind IN (3, 4) THEN
      PERFORM chat.apply_targets_1(ARRAY[v_status], ARRAY[p_conversation], ARRAY[p_kind],
        ARRAY[p_target], ARRAY[p_patch]);
    END IF;
  ELSIF v_status = 1 THEN
    RETURN QUERY SELECT 1, v_status, k.message_id, k.conversation, k.conversation_seq,
      k.message_no, k.created_at_ms, p_sender, k.timeline_seq, 0::smallint;
    PERFORM pg_logical_emit_message(true, 'chatmesh', '');
  ELSE
    RETURN QUERY SELECT 1, v_status, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint,
      p_sender, 0::bigint, 0::smallint;
  END IF;
  IF p_done <> '{}' THEN
    DELETE FROM chat.outbox o WHERE o.batch_id = ANY (p_done);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION chat.govern_1(
  p_tenant integer, p_actor bigint, p_conversation bigint, p_version integer,
  p_id bigint[], p_kind smallint[], p_key uuid[], p_hash bigint, p_body bytea[],
  p_title text, p_join smallint, p_history smallint,
  p_add bigint[], p_add_role smallint[], p_remove bigint[], p_role_of bigint[], p_role smallint,
  p_batch_id bigint, p_node bigint
) RETURNS TABLE (
  row_no integer, status smallint, message_id bigint, conversation_id bigint,
  conversation_seq bigint, message_no bigint, created_at_ms bigint, account bigint,
  timeline_seq bigint, bits smallint
) LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  v_count integer := cardinality(p_id);
  v_touched bigint[] := p_add || p_remove || p_role_of;
  v_accounts bigint[];
  v_status smallint := 0;
  v_zeros bigint[] := array_fill(0::bigint, ARRAY[v_count]);
  v_blanks bytea[] := array_fill(''::bytea, ARRAY[v_count]);
  v_flags smallint[] := array_fill(4::smallint, ARRAY[v_count]);  -- came without a session
  c record;
  k record;
BEGIN
  -- locks
  SELECT * INTO c FROM chat.conversation x WHERE x.id = p_conversation FOR NO KEY UPDATE;
  PERFORM FROM chat.member m
  WHERE m.conversation = p_conversation AND m.account = ANY (v_touched)
  ORDER BY m.account FOR NO KEY UPDATE;
  v_accounts := ARRAY(SELECT m.account FROM chat.member m
    WHERE m.conversation = p_conversation AND NOT m.gone) || p_add || p_actor;
  PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_accounts)
  ORDER BY h.account FOR NO KEY UPDATE;

  -- checks
  SELECT * INTO k FROM chat.idempotency_key x WHERE x.key = p_key[1] AND x.sender = p_actor;
  IF FOUND THEN
    v_status := CASE WHEN k.content_hash >> 56 = p_hash >> 56 AND k.content_hash <> p_hash
      THEN 2 ELSE 1 END;
  ELSIF coalesce(c.govern_version, -1) <> p_version THEN
    v_status := 9;
  ELSIF p_version >= 0 AND c.tenant <> p_tenant OR NOT EXISTS (SELECT FROM chat.timeline_head h
      WHERE h.account = p_actor AND h.tenant = p_tenant AND NOT h.disabled) THEN
    v_status := 3;
  ELSIF (SELECT count(*) FROM chat.timeline_head h WHERE h.account = ANY (p_add)
        AND h.tenant = p_tenant AND NOT h.disabled) < cardinality(p_add)
      OR EXISTS (SELECT FROM unnest(p_add) a JOIN chat.block b
        ON b.owner = a AND b.blocked = p_actor OR b.owner = p_actor AND b.blocked = a)
      OR coalesce(current_setting('chatmesh.reach', true), '') = 'contacts'
        AND EXISTS (SELECT FROM unnest(p_add) a WHERE a <> p_actor AND NOT (
          EXISTS (SELECT FROM chat.contact x
            WHERE x.owner = p_actor AND x.other = a AND x.state = 3)
          AND EXISTS (SELECT FROM chat.contact x
            WHERE x.owner = a AND x.other = p_actor AND x.state = 3))) THEN
    v_status := 4;
  END IF;
  IF v_status = 1 THEN
    RETURN QUERY SELECT 1, v_status, k.message_id, k.conversation, k.conversation_seq,
      k.message_no, k.created_at_ms, p_actor, k.timeline_seq, 0::smallint;
    PERFORM pg_logical_emit_message(true, 'chatmesh', '');
    RETURN;
  ELSIF v_status > 0 THEN
    RETURN QUERY SELECT 1, v_status, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint,
      p_actor, 0::bigint, 0::smallint;
    RETURN;
  END IF;

  -- who comes is there before the events, who goes is there until after them
  IF p_version < 0 THEN
    INSERT INTO chat.conversation (id, tenant, kind, join_policy, history_policy, member_count,
      created_at_ms, title)
    VALUES (p_conversation, p_tenant, 2, p_join, p_history, 0, chat.now_ms(), p_title);
  END IF;
  INSERT INTO chat.member (conversation, account, role, joined_at_ms, read_message_no,
    read_conversation_seq)
  SELECT p_conversation, x.account, x.role, chat.now_ms(), coalesce(c.last_message_no, 0),
    coalesce(c.last_conversation_seq, 0)
  FROM unnest(p_add, p_add_role) x(account, role) ORDER BY x.account
  ON CONFLICT (conversation, account) DO UPDATE SET gone = false, role = excluded.role,
    joined_at_ms = excluded.joined_at_ms, read_message_no = excluded.read_message_no,
    read_conversation_seq = excluded.read_conversation_seq, marked_unread = false;
  INSERT INTO chat.member_interval (conversation, account, from_conversation_seq)
  SELECT p_conversation, a,
    CASE WHEN coalesce(c.history_policy, p_history) = 2 THEN 1
      ELSE coalesce(c.last_conversation_seq, 0) + 1 END
  FROM unnest(p_add) a
  ON CONFLICT (conversation, account, from_conversation_seq)
    DO UPDATE SET to_conversation_seq = NULL;
  RETURN QUERY SELECT * FROM chat.commit_1(p_id, array_fill(p_tenant, ARRAY[v_count]),
    array_fill(p_actor, ARRAY[v_count]), array_fill(p_conversation, ARRAY[v_count]), p_kind,
    v_flags, p_key, array_fill(p_hash, ARRAY[v_count]), v_zeros, v_zeros, p_body,
    v_blanks, v_blanks, '{}', '{}', 0, p_batch_id, p_node, '{}');
  IF (SELECT x.last_conversation_seq FROM chat.conversation x WHERE x.id = p_conversation)
      <> coalesce(c.last_conversation_seq, 0) + v_count THEN
    RAISE EXCEPTION 'the events of a group''s change were refused';
  END IF;
  UPDATE chat.member_interval i SET to_conversation_seq =
    (SELECT x.last_conversation_seq FROM chat.conversation x WHERE x.id = p_conversation)
  WHERE i.conversation = p_conversation AND i.account = ANY (p_remove)
    AND i.to_conversation_seq IS NULL;
  UPDATE chat.member m SET gone = m.account = ANY (p_remove),
    role = CASE WHEN m.account = ANY (p_role_of) THEN p_role ELSE m.role END
  WHERE m.conversation = p_conversation AND m.account = ANY (p_remove || p_role_of);
  UPDATE chat.conversation x SET govern_version = x.govern_version + 1,
    title = coalesce(p_title, x.title), join_policy = coalesce(p_join, x.join_policy),
    history_policy = coalesce(p_history, x.history_policy),
    member_count = (SELECT count(*) FROM chat.member m
      WHERE m.conversation = p_conversation AND NOT m.gone)
  WHERE x.id = p_conversation;
END $$;
