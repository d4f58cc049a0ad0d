-- Small functions that the others use.
-- depends: 0001-tables

-- PostgreSQL's clock, now and not at the transaction's start: ms since the Unix epoch.
CREATE FUNCTION chat.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- The lowest UUID of a millisecond.
CREATE FUNCTION chat.uuid_floor(at_ms bigint) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN rpad(lpad(to_hex(at_ms), 12, '0'), 32, '0')::uuid;

-- Settings of a session that commits: one plan per statement, by index, whatever the tables' size
-- was when it was made. Costs nothing per call (SET clauses on the function cost 25 us).
CREATE FUNCTION chat.prepare_lane() RETURNS void LANGUAGE sql VOLATILE AS $$
  SELECT set_config(name, value, false) FROM (VALUES ('plan_cache_mode', 'force_generic_plan'),
    ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
    ('jit', 'off')) AS setting (name, value)
$$;

-- A body without its first field when that is the content (Event.content, field 9).
CREATE FUNCTION chat.without_content(body bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  v_at integer := 1;
  v_length integer := 0;
  v_shift integer := 0;
  v_byte integer;
BEGIN
  IF length(body) = 0 OR get_byte(body, 0) <> 74 THEN
    RETURN body;
  END IF;
  LOOP
    v_byte := get_byte(body, v_at);
    v_at := v_at + 1;
    v_length := v_length | ((v_byte & 127) << v_shift);
    EXIT WHEN v_byte < 128;
    v_shift := v_shift + 7;
  END LOOP;
  RETURN substr(body, v_at + v_length + 1);
END $$;

-- Makes the partitions of idempotency keys from 32 days ago to 8 days ahead, and drops those whose
-- keys are all older than 31 days. Called at the start of a node and once an hour; the owner's
-- rights are needed for this alone. Attached, not created in place: that locks no reader out.
CREATE FUNCTION chat.roll_key_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = chat, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
  v_today bigint := chat.now_ms() / 86400000;
  v_day bigint;
  v_name text;
  v_changes integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('chat.roll_key_partitions'));
  FOR v_day IN SELECT generate_series(v_today - 31, v_today + 8) LOOP
    v_name := 'idempotency_key_' || v_day;
    CONTINUE WHEN to_regclass('chat.' || v_name) IS NOT NULL;
    EXECUTE format('CREATE TABLE chat.%I (LIKE chat.idempotency_key INCLUDING ALL)', v_name);
    EXECUTE format('ALTER TABLE chat.idempotency_key ATTACH PARTITION chat.%I'
      ' FOR VALUES FROM (%L) TO (%L)', v_name, chat.uuid_floor(v_day * 86400000),
      chat.uuid_floor((v_day + 1) * 86400000));
    v_changes := v_changes + 1;
  END LOOP;
  FOR v_name IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'chat.idempotency_key'::regclass
      AND substr(c.relname, 17)::bigint < v_today - 31
  LOOP
    EXECUTE format('DROP TABLE chat.%I', v_name);
    v_changes := v_changes + 1;
  END LOOP;
  RETURN v_changes;
END $$;

DO $$ BEGIN PERFORM chat.roll_key_partitions(); END $$;
