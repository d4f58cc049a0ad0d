-- Entries of a timeline, with all that an Event's position fields need.
-- depends: 0002-functions

-- The first p_entries after p_after and up to p_up_to, contiguous. p_bytes bounds their bodies; one
-- entry always comes. An event that is gone (retention) or over reads as erased.
CREATE FUNCTION chat.entries_1(
  p_account bigint, p_after bigint, p_up_to bigint, p_entries integer, p_bytes bigint
) RETURNS TABLE (
  timeline_seq bigint, conversation bigint, conversation_seq bigint, message_no bigint, id bigint,
  sender_user text, created_at_ms bigint, peer_user text, kind smallint, body bytea, key uuid,
  notifies boolean
) LANGUAGE sql STABLE AS $$
  SELECT x.timeline_seq, x.conversation, x.conversation_seq, coalesce(x.message_no, 0),
    coalesce(x.id, 0), coalesce(s.external_id, ''), coalesce(x.created_at_ms, 0),
    coalesce(p.external_id, ''), coalesce(c.kind, 0::smallint), x.body,
    CASE WHEN x.sender = p_account THEN x.key END,
    coalesce(x.flags & 2 > 0 AND x.sender <> p_account, false)
  FROM (
    SELECT t.timeline_seq, t.conversation, t.conversation_seq, e.message_no, e.id, e.sender,
      e.created_at_ms, e.key, e.flags,
      CASE WHEN e.id IS NULL OR e.expires_at_ms BETWEEN 1 AND chat.now_ms() THEN '' ELSE e.body
        END AS body,
      sum(octet_length(e.body)) OVER (ORDER BY t.timeline_seq) - octet_length(e.body) AS before
    FROM (SELECT * FROM chat.timeline t WHERE t.account = p_account
      AND t.timeline_seq > p_after AND t.timeline_seq <= p_up_to
      ORDER BY t.timeline_seq LIMIT p_entries) t
    LEFT JOIN LATERAL (SELECT * FROM chat.event e WHERE e.conversation = t.conversation
      AND e.conversation_seq = t.conversation_seq LIMIT 1) e ON true
  ) x
  LEFT JOIN chat.conversation c ON c.id = x.conversation
  LEFT JOIN chat.account s ON s.id = x.sender
  LEFT JOIN chat.account p
    ON p.id = CASE WHEN c.direct_low = x.sender THEN c.direct_high ELSE c.direct_low END
  WHERE coalesce(x.before, 0) < p_bytes
$$;
