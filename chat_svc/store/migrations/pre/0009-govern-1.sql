-- The slow commit: groups, their members, roles and properties; contacts and blocks.
-- depends: 0003-commit-1
--
-- Same lock order as the fast commit (conversation < member < timeline_head), and its last step is
-- the fast commit itself, under locks that are held already. What is to be done was decided before,
-- on a state that is compared here: status 9 = it changed meanwhile, decide anew.
-- The SET clauses make plans as the fast commit needs them without leaving a trace in the pool's
-- connection.

-- Membership and properties of one group. p_version: govern_version that was read; -1 = make the
-- group. Events (parallel arrays) are appended in order; the first key is the caller's, the others
-- are made for the occasion. Status 4: somebody to add blocks the actor or is blocked, disabled, or
-- of another tenant.
CREATE FUNCTION chat.govern_1(
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
        ON b.owner = a AND b.blocked = p_actor OR b.owner = p_actor AND b.blocked = a) THEN
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

-- Where two accounts stand. Lines 0 none, 1 requested, 2 incoming, 3 accepted. Events: one in the
-- actor's self conversation, and, when p_id has two, one in the other's.
CREATE FUNCTION chat.contact_1(
  p_tenant integer, p_actor bigint, p_other bigint,
  p_mine smallint, p_theirs smallint, p_i_block boolean, p_they_block boolean,
  p_new_mine smallint, p_new_theirs smallint, p_new_i_block boolean,
  p_id bigint[], p_key uuid[], p_hash bigint, p_body bytea[], p_batch_id bigint, p_node bigint
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
  v_pair bigint[] := ARRAY[p_actor, p_other];
  v_selves bigint[];
  v_status smallint := 0;
  v_zeros bigint[] := array_fill(0::bigint, ARRAY[v_count]);
  v_blanks bytea[] := array_fill(''::bytea, ARRAY[v_count]);
  v_flags smallint[] := array_fill(4::smallint, ARRAY[v_count]);  -- came without a session
  k record;
BEGIN
  -- locks
  v_selves := ARRAY(SELECT a.self_conversation FROM unnest(v_pair) WITH ORDINALITY x(id, n)
    JOIN chat.account a ON a.id = x.id AND a.tenant = p_tenant ORDER BY x.n);
  PERFORM FROM chat.conversation x WHERE x.id = ANY (v_selves) ORDER BY x.id FOR NO KEY UPDATE;
  PERFORM FROM chat.timeline_head h WHERE h.account = ANY (v_pair)
  ORDER BY h.account FOR NO KEY UPDATE;

  -- checks
  SELECT * INTO k FROM chat.idempotency_key x WHERE x.key = p_key[1] AND x.sender = p_actor;
  IF FOUND THEN
    v_status := CASE WHEN k.content_hash >> 56 = p_hash >> 56 AND k.content_hash <> p_hash
      THEN 2 ELSE 1 END;
  ELSIF EXISTS (SELECT FROM chat.timeline_head h WHERE h.account = p_actor AND h.disabled) THEN
    v_status := 3;
  ELSIF cardinality(v_selves) < 2 OR v_count > 1 AND EXISTS (SELECT FROM chat.timeline_head h
      WHERE h.account = p_other AND h.disabled) THEN
    v_status := 4;
  ELSIF (SELECT (p_mine, p_theirs, p_i_block, p_they_block) IS DISTINCT FROM (
      coalesce((SELECT x.state FROM chat.contact x
        WHERE x.owner = p_actor AND x.other = p_other), 0::smallint),
      coalesce((SELECT x.state FROM chat.contact x
        WHERE x.owner = p_other AND x.other = p_actor), 0::smallint),
      EXISTS (SELECT FROM chat.block b WHERE b.owner = p_actor AND b.blocked = p_other),
      EXISTS (SELECT FROM chat.block b WHERE b.owner = p_other AND b.blocked = p_actor))) THEN
    v_status := 9;
  END IF;
  IF v_status > 0 THEN
    RETURN QUERY SELECT 1, v_status, coalesce(k.message_id, 0), coalesce(k.conversation, 0),
      coalesce(k.conversation_seq, 0), coalesce(k.message_no, 0), coalesce(k.created_at_ms, 0),
      p_actor, coalesce(k.timeline_seq, 0), 0::smallint;
    PERFORM pg_logical_emit_message(true, 'chatmesh', '');
    RETURN;
  END IF;

  -- writes
  WITH line(owner, other, state, was) AS (
    VALUES (p_actor, p_other, p_new_mine, p_mine), (p_other, p_actor, p_new_theirs, p_theirs)
  ), gone AS (
    DELETE FROM chat.contact x USING line l
    WHERE x.owner = l.owner AND x.other = l.other AND l.state = 0
  )
  INSERT INTO chat.contact (owner, other, state, changed_at_ms)
  SELECT l.owner, l.other, l.state, chat.now_ms() FROM line l
  WHERE l.state > 0 AND l.state <> l.was
  ON CONFLICT (owner, other) DO UPDATE
    SET state = excluded.state, changed_at_ms = excluded.changed_at_ms;
  IF p_new_i_block AND NOT p_i_block THEN
    INSERT INTO chat.block VALUES (p_actor, p_other, chat.now_ms());
    UPDATE chat.timeline_head h SET blocks = h.blocks + 1 WHERE h.account = p_actor;
  ELSIF p_i_block AND NOT p_new_i_block THEN
    DELETE FROM chat.block b WHERE b.owner = p_actor AND b.blocked = p_other;
    UPDATE chat.timeline_head h SET blocks = h.blocks - 1 WHERE h.account = p_actor;
  END IF;
  RETURN QUERY SELECT * FROM chat.commit_1(p_id, array_fill(p_tenant, ARRAY[v_count]),
    v_pair[1:v_count], v_selves[1:v_count], array_fill(9::smallint, ARRAY[v_count]),
    v_flags, p_key, array_fill(p_hash, ARRAY[v_count]), v_zeros, v_zeros, p_body,
    v_blanks, v_blanks, '{}', '{}', 0, p_batch_id, p_node, '{}');
END $$;
