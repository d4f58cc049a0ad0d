-- Threads: messages by the root that their body names (Event.thread_root_conversation_seq).
-- depends: 0035-session-no

-- Field 18 of a stored body; 0 = none. Bodies are what the server wrote: fields 9 and above. Whatever
-- else the bytes may be, the answer is 0 and no error: this runs within commits.
CREATE FUNCTION chat.thread_of_1(body bytea) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  c_field CONSTANT bigint := 18;
  v_size CONSTANT integer := length(body);
  v_at integer := 0;
  v_tag bigint := -1;  -- -1: a tag comes next
  v_value bigint;
  v_shift integer;
  v_byte integer;
BEGIN
  WHILE v_at < v_size LOOP
    v_value := 0;
    v_shift := 0;
    LOOP
      IF v_at >= v_size OR v_shift > 63 THEN
        RETURN 0;
      END IF;
      v_byte := get_byte(body, v_at);
      v_at := v_at + 1;
      v_value := v_value | ((v_byte & 127)::bigint << v_shift);
      EXIT WHEN v_byte < 128;
      v_shift := v_shift + 7;
    END LOOP;
    IF v_tag < 0 THEN
      v_tag := v_value;
      IF v_tag < 0 OR v_tag & 7 NOT IN (0, 2) THEN
        RETURN 0;
      END IF;
    ELSIF v_tag & 7 = 0 THEN
      IF v_tag >> 3 = c_field THEN
        RETURN v_value;
      END IF;
      v_tag := -1;
    ELSE
      IF v_value < 0 OR v_value > v_size - v_at THEN
        RETURN 0;
      END IF;
      v_at := v_at + v_value::integer;
      v_tag := -1;
    END IF;
  END LOOP;
  RETURN 0;
END $$;

-- Only bodies that may name a root (the field's tag is in their bytes): other messages cost the
-- search for two bytes.
CREATE INDEX event_thread ON chat.event (conversation, chat.thread_of_1(body))
  WHERE position('\x9001'::bytea IN body) > 0;
