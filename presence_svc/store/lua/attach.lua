-- Sessions of one node came or changed; all accounts of one bucket. Fenced by session_no: an older
-- session than the known one of its device, or one that has ended, is refused.
-- Returns one number per session: 0 taken, 1 superseded (the node must close it).
-- What another node held of a device that came here is taken from it: its next beats tell of a session
-- too many, so it attaches all again and is told, should nobody else have told it.
--
-- KEYS[1]    change counter of the bucket
-- KEYS[2]    sessions of the node within the bucket (hash)
-- KEYS[3]    holding of the node within the bucket
-- KEYS[4…]   account record, one per session
-- ARGV[1…6]  channel, bucket, node id, now (Unix ms), life of a fence (ms), life of a record
--            without session or wish (ms)
-- ARGV[7…]   per session: account id, device id, session_no, kind, active (0/1), mix "high:low"
local channel, bucket, node = ARGV[1], ARGV[2], ARGV[3]
local now_ms, fence_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local holding = read_holding(KEYS[3])
local answers, changed = {}, {}

-- A key of another node within the bucket: of the same slot, by the name of this node's.
local function of_node(key, other)
  return string.sub(key, 1, -#node - 1) .. other
end

local function take_from(other, field, session_no)
  local sessions = of_node(KEYS[2], other)
  local held_no, held_mix = string.match(redis.call('HGET', sessions, field) or '', '^(%d+) (.+)$')
  if held_no and tonumber(held_no) < tonumber(session_no) then
    redis.call('HDEL', sessions, field)
    local left = read_holding(of_node(KEYS[3], other))
    toggle(left, -1, held_mix)
    write_holding(of_node(KEYS[3], other), left)
  end
end

for i = 1, #KEYS - 3 do
  local at = 7 + (i - 1) * 6
  local account, device, session_no = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local kind, active, mix = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5]
  local key = KEYS[3 + i]
  local record = read_record(key)
  local known = record.d[device]
  local fence = known and tonumber(known[SESSION]) or -1
  if tonumber(session_no) < fence or (tonumber(session_no) == fence and known[LIVE] == 0) then
    answers[i] = 1
  else
    answers[i] = 0
    if not (known and known[LIVE] == 1 and known[KIND] == kind and known[ACTIVE] == active) then
      record.n = record.n + 1
      changed[#changed + 1] = account
    end
    record.d[device] = {node, session_no, kind, active, 1, now_ms}
    write_record(key, record, now_ms, fence_ms, keep_ms)
    local field = account .. ' ' .. device
    if known and known[NODE] ~= node then
      take_from(known[NODE], field, session_no)
    end
    local held = redis.call('HGET', KEYS[2], field)
    if held then
      toggle(holding, -1, string.match(held, ' (.+)$'))
    end
    toggle(holding, 1, mix)
    redis.call('HSET', KEYS[2], field, session_no .. ' ' .. mix)
  end
end

write_holding(KEYS[3], holding)
tell(KEYS[1], channel, bucket, changed)
return answers
