-- One beat of a node: its lease begins anew.
-- Returns 1 when the lease was live, 0 when the node is new or its lease had ended.
--
-- KEYS[1]    lease of the node
-- KEYS[2]    nodes that have or had a lease (set)
-- ARGV[1]    node id
-- ARGV[2]    value of the lease: format byte and NodeRef
-- ARGV[3]    life of the lease (ms)
local was_live = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
return was_live
