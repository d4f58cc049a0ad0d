-- A dead node's sessions are all taken away: forget the node, unless it has come back.
-- Returns 1 when it is forgotten.
--
-- KEYS[1]    lease of the node
-- KEYS[2]    nodes that have or had a lease (set)
-- ARGV[1]    node id
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
return redis.call('SREM', KEYS[2], ARGV[1])
