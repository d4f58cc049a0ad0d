-- Sessions of one node went; all accounts of one bucket. Compare and delete: only the very session
-- that is named ends. An end that comes before its attach leaves a fence, so that the attach,
-- when it comes, is refused.
-- Returns how many accounts changed.
--
-- KEYS[1]    change counter of the bucket
-- KEYS[2]    sessions of the node within the bucket (hash)
-- KEYS[3]    holding of the node within the bucket
-- KEYS[4…]   account record, one per session
-- ARGV[1…6]  channel, bucket, node id, now (Unix ms), life of a fence (ms), life of a record
--            without session or wish (ms)
-- ARGV[7]    0 = the node says so; 2 = the node's lease has ended (its sessions may come back)
-- ARGV[8…]   per session: account id, device id, session_no
local channel, bucket, node = ARGV[1], ARGV[2], ARGV[3]
local now_ms, fence_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local how = tonumber(ARGV[7])
local holding = read_holding(KEYS[3])
local changed = {}

for i = 1, #KEYS - 3 do
  local at = 8 + (i - 1) * 3
  local account, device, session_no = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local field = account .. ' ' .. device
  local held = redis.call('HGET', KEYS[2], field)
  local held_no, held_mix = string.match(held or '', '^(%d+) (.+)$')
  if held_no == session_no then
    redis.call('HDEL', KEYS[2], field)
    toggle(holding, -1, held_mix)
  end
  local key = KEYS[3 + i]
  local record = read_record(key)
  local known = record.d[device]
  local fence = known and tonumber(known[SESSION]) or -1
  local is_known = fence == tonumber(session_no) and known[NODE] == node and known[LIVE] == 1
  local is_early = how == 0 and fence < tonumber(session_no)
  if is_known or is_early then
    if known and known[LIVE] == 1 then
      record.n = record.n + 1
      if not is_invisible(record) then
        record.s = now_ms
      end
      changed[#changed + 1] = account
    end
    local kind = known and known[KIND] or 0
    record.d[device] = {node, session_no, kind, 0, how, now_ms}
    write_record(key, record, now_ms, fence_ms, keep_ms)
  end
end

write_holding(KEYS[3], holding)
tell(KEYS[1], channel, bucket, changed)
return #changed
