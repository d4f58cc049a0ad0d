-- Partitions of idempotency keys, by name whatever the planner looks at first: it may read the names
-- of other tables before it knows whose partitions they are.
-- depends: 0033-marks-2

-- Makes the partitions of idempotency keys from 32 days ago to 8 days ahead, and drops those whose
-- keys are all older than 31 days. Called at the start of a node and once an hour; the owner's
-- rights are needed for this alone. Attached, not created in place: that locks no reader out.
CREATE OR REPLACE FUNCTION chat.roll_key_partitions() RETURNS integer
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
      AND CASE WHEN c.relname ~ '^idempotency_key_[0-9]+$'
        THEN substr(c.relname, 17)::bigint < v_today - 31 END
  LOOP
    EXECUTE format('DROP TABLE chat.%I', v_name);
    v_changes := v_changes + 1;
  END LOOP;
  RETURN v_changes;
END $$;
