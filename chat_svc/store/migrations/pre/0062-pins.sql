-- Messages that are pinned now, by conversation.
-- depends: 0036-threads

-- Whether the stored body of a pin takes it back: PinContent.removed is the last field of the content
-- at its head (PinContent is short: lengths are one byte). A body that is gone, as its writer is, pins
-- nothing.
CREATE FUNCTION chat.unpins_1(body bytea) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CASE WHEN octet_length(body) < 5 THEN true
  ELSE substring(body FROM get_byte(body, 1) + 1 FOR 2) = '\x1001'::bytea END;

-- Only pins: other events cost it nothing.
CREATE INDEX event_pin ON chat.event (conversation, target_seq) WHERE kind = 6;
