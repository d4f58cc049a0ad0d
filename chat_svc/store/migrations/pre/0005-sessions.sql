-- Sessions of devices: opened, fenced, forgotten. Lock order: timeline_head < device.
-- depends: 0002-functions

-- Opens a session. The head is locked only when the number of devices changes.
-- outcome: 0 opened, 1 the cursor cannot be resumed from (nothing changed), 2 the device was signed
-- out, 3 the account has p_max_devices already (nothing changed).
CREATE FUNCTION chat.open_session_1(
  p_account bigint, p_device_id text, p_kind smallint, p_name text, p_node bigint,
  p_cursor_seq bigint, p_cursor_id bigint, p_start smallint, p_max_devices integer,
  OUT outcome smallint, OUT session_no bigint, OUT previous_node bigint, OUT acked_seq bigint,
  OUT acked_id bigint, OUT start_seq bigint, OUT head_seq bigint, OUT min_seq bigint,
  OUT account_version bigint, OUT devices integer
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  h record;
  d record;
  v_id bigint;
BEGIN
  SELECT * INTO d FROM chat.device x WHERE x.account = p_account AND x.device_id = p_device_id;
  IF FOUND THEN
    SELECT * INTO h FROM chat.timeline_head x WHERE x.account = p_account;
  ELSE
    SELECT * INTO h FROM chat.timeline_head x WHERE x.account = p_account FOR NO KEY UPDATE;
    SELECT * INTO d FROM chat.device x WHERE x.account = p_account AND x.device_id = p_device_id;
  END IF;
  outcome := 0;
  previous_node := coalesce(d.session_node, 0);
  acked_seq := coalesce(d.acked_seq, 0);
  acked_id := coalesce(d.acked_id, 0);
  head_seq := h.seq;
  min_seq := h.min_seq;
  account_version := h.account_version;
  devices := h.devices;

  IF p_cursor_seq IS NOT NULL THEN
    IF NOT chat.cursor_matches(p_account, p_cursor_seq, p_cursor_id) THEN
      outcome := 1;
      RETURN;
    END IF;
    start_seq := p_cursor_seq;
    IF p_cursor_seq > acked_seq THEN
      acked_seq := p_cursor_seq;
      acked_id := p_cursor_id;
    END IF;
  ELSE
    start_seq := CASE WHEN p_start = 2 THEN h.seq ELSE h.min_seq - 1 END;
    -- what lies before the start needs no ack: a device at the head is not owed the past
    IF start_seq > acked_seq THEN
      acked_seq := start_seq;
      acked_id := coalesce((SELECT e.id FROM chat.timeline t JOIN chat.event e
        ON e.conversation = t.conversation AND e.conversation_seq = t.conversation_seq
        WHERE t.account = p_account AND t.timeline_seq = start_seq), 0);
    END IF;
  END IF;

  IF d.account IS NULL THEN
    IF EXISTS (SELECT FROM chat.signed_out_device x
        WHERE x.account = p_account AND x.device_id = p_device_id) THEN
      outcome := 2;
      RETURN;
    END IF;
    IF h.devices >= p_max_devices THEN
      outcome := 3;
      RETURN;
    END IF;
    UPDATE chat.timeline_head x SET devices = x.devices + 1 WHERE x.account = p_account
    RETURNING x.devices INTO devices;
    session_no := nextval('chat.session_no');
    INSERT INTO chat.device (account, device_id, kind, name, acked_seq, acked_id, session_node,
      session_no, seen_at_ms, created_at_ms)
    VALUES (p_account, p_device_id, p_kind, p_name, acked_seq, acked_id, p_node, session_no,
      chat.now_ms(), chat.now_ms());
    RETURN;
  END IF;
  PERFORM FROM chat.device x WHERE x.account = p_account AND x.device_id = p_device_id
  FOR NO KEY UPDATE;
  IF NOT FOUND THEN  -- signed out meanwhile
    outcome := 2;
    RETURN;
  END IF;
  -- numbered under the row's lock: of two hellos at once the later number is the row's
  session_no := nextval('chat.session_no');
  UPDATE chat.device x SET kind = p_kind, name = p_name, session_node = p_node,
    session_no = open_session_1.session_no, seen_at_ms = chat.now_ms(),
    acked_seq = greatest(x.acked_seq, open_session_1.acked_seq),
    acked_id = CASE WHEN open_session_1.acked_seq > x.acked_seq
      THEN open_session_1.acked_id ELSE x.acked_id END
  FROM (SELECT y.session_node FROM chat.device y
    WHERE y.account = p_account AND y.device_id = p_device_id) old
  WHERE x.account = p_account AND x.device_id = p_device_id
  RETURNING old.session_node, x.acked_seq, x.acked_id
  INTO previous_node, acked_seq, acked_id;
END $$;

-- Whether a cursor can be resumed from: nothing after it was cut, it is not above the head, and the
-- message id there is the one that the device has (0: it does not know).
CREATE FUNCTION chat.cursor_matches(p_account bigint, p_seq bigint, p_id bigint)
RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT p_seq <= h.seq AND p_seq >= h.min_seq - 1 AND (p_id = 0 OR p_seq < h.min_seq
    OR EXISTS (SELECT FROM chat.timeline t LEFT JOIN chat.event e
      ON e.conversation = t.conversation AND e.conversation_seq = t.conversation_seq
      WHERE t.account = p_account AND t.timeline_seq = p_seq AND (e.id = p_id OR e.id IS NULL)))
  FROM chat.timeline_head h WHERE h.account = p_account
$$;

-- Writes acks: forward only, by the newest session of each device only.
CREATE FUNCTION chat.write_cursors_1(
  p_account bigint[], p_device_id text[], p_session_no bigint[], p_seq bigint[], p_id bigint[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM FROM chat.device d
  WHERE (d.account, d.device_id) IN (SELECT * FROM unnest(p_account, p_device_id))
  ORDER BY d.account, d.device_id FOR NO KEY UPDATE;
  UPDATE chat.device d SET acked_seq = x.seq, acked_id = x.id
  FROM unnest(p_account, p_device_id, p_session_no, p_seq, p_id)
    x(account, device_id, session_no, seq, id)
  WHERE d.account = x.account AND d.device_id = x.device_id AND d.session_no = x.session_no
    AND d.acked_seq < x.seq;
END $$;

-- Ends the binding of devices to their node, where the session is still the newest.
CREATE FUNCTION chat.close_sessions_1(p_account bigint[], p_device_id text[], p_session_no bigint[])
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM FROM chat.device d
  WHERE (d.account, d.device_id) IN (SELECT * FROM unnest(p_account, p_device_id))
  ORDER BY d.account, d.device_id FOR NO KEY UPDATE;
  UPDATE chat.device d SET session_node = 0
  FROM unnest(p_account, p_device_id, p_session_no) x(account, device_id, session_no)
  WHERE d.account = x.account AND d.device_id = x.device_id AND d.session_no = x.session_no;
END $$;

-- Forgets devices (NULL = all of the account) and remembers their ids as signed out.
CREATE FUNCTION chat.sign_out_1(p_account bigint, p_device_ids text[])
RETURNS TABLE (device_id text, session_node bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_gone integer;
BEGIN
  PERFORM FROM chat.timeline_head h WHERE h.account = p_account FOR NO KEY UPDATE;
  RETURN QUERY
  WITH locked AS (
    SELECT d.device_id FROM chat.device d
    WHERE d.account = p_account AND (p_device_ids IS NULL OR d.device_id = ANY (p_device_ids))
    ORDER BY d.device_id FOR UPDATE
  ), gone AS (
    DELETE FROM chat.device d USING locked l
    WHERE d.account = p_account AND d.device_id = l.device_id
    RETURNING d.device_id, d.session_node
  ), noted AS (
    INSERT INTO chat.signed_out_device SELECT p_account, g.device_id, chat.now_ms() FROM gone g
    ON CONFLICT DO NOTHING
  )
  SELECT g.device_id, g.session_node FROM gone g;
  GET DIAGNOSTICS v_gone = ROW_COUNT;
  UPDATE chat.timeline_head h SET devices = h.devices - v_gone,
    account_version = h.account_version + 1
  WHERE h.account = p_account AND v_gone > 0;
END $$;
