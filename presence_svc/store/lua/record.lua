-- Prelude of the scripts that change accounts: reads and writes an account's record (KEYS.md).
-- Not a script of its own; the loader puts it before attach, detach, set_state, end_status.
--
-- record = {v = 1, n = version, s = last_seen_ms,
--           d = {device_id = {node, session_no, kind, active, live, changed_ms}},
--           w = {state, text, until_ms}}     w is absent when no wish was ever told
-- 64-bit numbers are decimal strings: Lua's numbers are doubles. session_no is compared as a
-- number, exact up to 2^53.
-- live: 1 = a session, 0 = ended by its node (a late attach of it is refused), 2 = lapsed with its
-- node's lease (the same session may come back).
local NODE, SESSION, KIND, ACTIVE, LIVE, CHANGED = 1, 2, 3, 4, 5, 6
local FORMAT = 1

local function read_record(key)
  local raw = redis.call('GET', key)
  if not raw then
    return {v = FORMAT, n = 0, s = 0, d = {}}
  end
  local record = cjson.decode(raw)
  if record.v ~= FORMAT then
    error('account record of format ' .. tostring(record.v) .. ', this release writes ' .. FORMAT)
  end
  return record
end

-- Drops fences nobody can need any more; a record without session and wish ends by itself.
local function write_record(key, record, now_ms, fence_ms, keep_ms)
  local sessions = false
  for device, entry in pairs(record.d) do
    if entry[LIVE] == 1 then
      sessions = true
    elseif entry[CHANGED] < now_ms - fence_ms then
      record.d[device] = nil
    end
  end
  local raw = cjson.encode(record)
  if sessions or record.w then
    redis.call('SET', key, raw)
  else
    redis.call('SET', key, raw, 'PX', keep_ms)
  end
end

local function is_invisible(record)
  return record.w and record.w[1] == 5
end

-- Counts the change of the bucket and tells all replicas: "bucket count account,account,…".
local function tell(counter_key, channel, bucket, accounts)
  if #accounts > 0 then
    local count = redis.call('INCR', counter_key)
    redis.call('PUBLISH', channel, bucket .. ' ' .. count .. ' ' .. table.concat(accounts, ','))
  end
end

-- What a node holds within this bucket: {v, count, high, low} of the XOR of its sessions' mixes.
local function read_holding(key)
  local raw = redis.call('GET', key)
  return raw and cjson.decode(raw) or {FORMAT, 0, 0, 0}
end

local function write_holding(key, holding)
  if holding[2] == 0 then
    redis.call('DEL', key)
  else
    redis.call('SET', key, cjson.encode(holding))
  end
end

-- Adds (change 1) or takes away (-1) one session whose mix is "high:low".
local function toggle(holding, change, mix)
  local high, low = string.match(mix, '^(%d+):(%d+)$')
  holding[2] = holding[2] + change
  holding[3] = bit.bxor(holding[3], tonumber(high)) % 4294967296
  holding[4] = bit.bxor(holding[4], tonumber(low)) % 4294967296
end
