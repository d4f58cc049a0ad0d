-- The audit log: appended, never changed. Each record holds the hash of the one before it in its
-- tenant, so that whoever changes or removes one has to change all after it.
-- depends: 0001-tables
--
-- The service's role may insert and read, nothing else (the migrator reads the table's comment).
-- The two functions that take something away belong to the owner: they blank names of erased users
-- and cut a prefix that is older than the log is kept. Names are not part of the hash.

-- actions: numbers of chatmesh.v1.AuditAction. actor, user_id: empty = nobody known, or erased.
CREATE TABLE chat.audit (
  tenant integer NOT NULL,
  record_no bigint NOT NULL,
  at_ms bigint NOT NULL,
  conversation bigint NOT NULL,
  action smallint NOT NULL,
  actor text COLLATE "C" NOT NULL,
  user_id text COLLATE "C" NOT NULL,
  detail text NOT NULL,
  hash bytea NOT NULL,
  PRIMARY KEY (tenant, record_no)
);
COMMENT ON TABLE chat.audit IS 'append-only';
CREATE INDEX audit_action ON chat.audit (tenant, action, record_no);
CREATE INDEX audit_actor ON chat.audit (tenant, actor, record_no) WHERE actor <> '';
CREATE INDEX audit_user ON chat.audit (tenant, user_id, record_no) WHERE user_id <> '';

-- What a record's hash is made of, after the hash before it (32 zero bytes before the first).
CREATE FUNCTION chat.audit_hash_1(
  p_before bytea, p_no bigint, p_at_ms bigint, p_action smallint, p_conversation bigint,
  p_detail text
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN sha256(
  p_before || int8send(p_no) || int8send(p_at_ms) || int4send(p_action)
    || int8send(p_conversation) || convert_to(p_detail, 'UTF8'));

-- Appends records (parallel arrays) to one tenant's log. The lock is last in the lock order and
-- held to the end of the transaction: append as its last step.
CREATE FUNCTION chat.audit_append_1(
  p_tenant integer, p_action smallint[], p_actor text[], p_user text[], p_conversation bigint[],
  p_detail text[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_no bigint;
  v_at_ms bigint;
  v_hash bytea;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('chat.audit'), p_tenant);
  SELECT a.record_no, a.at_ms, a.hash INTO v_no, v_at_ms, v_hash FROM chat.audit a
  WHERE a.tenant = p_tenant ORDER BY a.record_no DESC LIMIT 1;
  v_at_ms := greatest(chat.now_ms(), coalesce(v_at_ms, 0));
  v_no := coalesce(v_no, 0);
  v_hash := coalesce(v_hash, decode(repeat('00', 32), 'hex'));
  FOR i IN 1 .. cardinality(p_action) LOOP
    v_no := v_no + 1;
    v_hash := chat.audit_hash_1(v_hash, v_no, v_at_ms, p_action[i], p_conversation[i],
      p_detail[i]);
    INSERT INTO chat.audit (tenant, record_no, at_ms, conversation, action, actor, user_id, detail,
      hash)
    VALUES (p_tenant, v_no, v_at_ms, p_conversation[i], p_action[i], p_actor[i], p_user[i],
      p_detail[i], v_hash);
  END LOOP;
END $$;

-- Appends refused tokens, at most one record per reason and minute over all nodes; answers the
-- reasons that were recorded. What was not is to be counted on and told again.
CREATE FUNCTION chat.audit_refused_1(p_tenant text, p_reason text[], p_count bigint[])
RETURNS SETOF text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_tenant integer;
  v_reason text;
BEGIN
  INSERT INTO chat.tenant (name) VALUES (p_tenant) ON CONFLICT (name) DO NOTHING;
  SELECT t.id INTO v_tenant FROM chat.tenant t WHERE t.name = p_tenant;
  PERFORM pg_advisory_xact_lock(hashtext('chat.audit'), v_tenant);
  FOR i IN 1 .. cardinality(p_reason) LOOP
    v_reason := p_reason[i];
    CONTINUE WHEN EXISTS (SELECT FROM (
        SELECT a.detail, a.at_ms FROM chat.audit a WHERE a.tenant = v_tenant AND a.action = 1
        ORDER BY a.record_no DESC LIMIT 100) a
      WHERE a.at_ms > chat.now_ms() - 60000 AND a.detail LIKE 'reason=' || v_reason || ' %');
    PERFORM chat.audit_append_1(v_tenant, '{1}', '{""}', '{""}', '{0}',
      ARRAY[format('reason=%s count=%s', v_reason, p_count[i])]);
    RETURN NEXT v_reason;
  END LOOP;
END $$;

-- Blanks an erased user's name wherever it stands in its tenant's log.
CREATE FUNCTION chat.audit_forget_1(p_tenant integer, p_user text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = chat, pg_temp AS $$
  UPDATE chat.audit SET actor = '' WHERE tenant = p_tenant AND actor = p_user AND p_user <> '';
  UPDATE chat.audit SET user_id = '' WHERE tenant = p_tenant AND user_id = p_user AND p_user <> '';
$$;

-- Cuts at most p_rows records that are older than p_keep_days off every log's beginning; the newest
-- record of a log stays, for the next one hangs on it. Never more than asked for: 30 days are the
-- least that can be kept.
CREATE FUNCTION chat.audit_trim_1(p_keep_days integer, p_rows integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = chat, pg_temp AS $$
DECLARE
  v_cut bigint;
BEGIN
  DELETE FROM chat.audit a USING (
    SELECT x.tenant, x.record_no FROM chat.tenant t CROSS JOIN LATERAL (
      SELECT y.tenant, y.record_no FROM chat.audit y
      WHERE y.tenant = t.id AND y.at_ms < chat.now_ms() - greatest(p_keep_days, 30) * 86400000::bigint
        AND y.record_no < (SELECT max(z.record_no) FROM chat.audit z WHERE z.tenant = t.id)
      ORDER BY y.record_no LIMIT p_rows) x LIMIT p_rows) old
  WHERE a.tenant = old.tenant AND a.record_no = old.record_no;
  GET DIAGNOSTICS v_cut = ROW_COUNT;
  RETURN v_cut;
END $$;
