-- Numbers of sessions rise when the database was rewound, too: a restored dump brings back an older
-- sequence, while presence and other nodes still know the sessions that came after it.
-- depends: 0034-key-partitions

-- Greater than any number before: of this device by p_previous, of all by the sequence, of those that
-- a restore has forgotten by the time (seconds since 2026, above 24 bits of sequence).
CREATE FUNCTION chat.next_session_no(p_previous bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT greatest(p_previous + 1,
    ((chat.now_ms() / 1000 - 1767225600) << 24) + nextval('chat.session_no'))
$$;

CREATE OR REPLACE FUNCTION chat.open_session_1(
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
    session_no := chat.next_session_no(0);
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
  session_no := chat.next_session_no((SELECT x.session_no FROM chat.device x
    WHERE x.account = p_account AND x.device_id = p_device_id));
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
