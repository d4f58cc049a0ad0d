-- One look of a replica, about once a second: marks that presence lives, notices an empty start or
-- an interruption of presence as a whole, and lists the nodes.
-- Returns {generation, 1 if warming else 0, {node id, lease or false, ms left}, …}.
--
-- KEYS[1]    generation
-- KEYS[2]    alive mark: some replica was here lately
-- KEYS[3]    warm mark: leases may be missing because presence was interrupted
-- KEYS[4]    nodes that have or had a lease (set)
-- ARGV[1]    generation to take if there is none
-- ARGV[2…4]  life of the alive mark, of the warm mark, of a lease (ms)
-- ARGV[5]    prefix of the leases' keys, which lie in the same slot
local lease_ms = tonumber(ARGV[4])
if redis.call('SET', KEYS[1], ARGV[1], 'NX') then
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[3])
elseif redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[3])
end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])

local answer = {redis.call('GET', KEYS[1]), redis.call('EXISTS', KEYS[3])}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  local key = ARGV[5] .. node
  local left = redis.call('PTTL', key)
  if left > lease_ms then -- the server's clock went back: no lease may outlive its promise by that
    redis.call('PEXPIRE', key, lease_ms)
    left = lease_ms
  end
  answer[#answer + 1] = {node, redis.call('GET', key), left}
end
return answer
