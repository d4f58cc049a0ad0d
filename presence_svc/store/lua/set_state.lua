-- A user's lasting wishes, field by field.
-- Going invisible ends what others may see: the last-seen time stops there.
-- Wishes are numbered by whom keeps them: one that is older than the known one is ignored.
-- Returns the record's version.
--
-- KEYS[1]    change counter of the bucket
-- KEYS[2]    account record
-- ARGV[1…6]  channel, bucket, account id, now (Unix ms), life of a fence (ms), life of a record
--            without session or wish (ms)
-- ARGV[7]    state, 0 = leave it
-- ARGV[8]    1 = the text is told, 0 = leave it
-- ARGV[9…10] text, its end (Unix ms, 0 = never)
-- ARGV[11]   number of the wish, 0 = the newest
local channel, bucket, account = ARGV[1], ARGV[2], ARGV[3]
local now_ms, fence_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local record = read_record(KEYS[2])
local wish = record.w or {3, '', 0}
local before = cjson.encode(wish)
local number = tonumber(ARGV[11])

if number > 0 then
  if wish[4] and wish[4] > number then
    return record.n
  end
  wish[4] = number
end
if ARGV[7] ~= '0' then
  if ARGV[7] == '5' and wish[1] ~= 5 then
    for _, entry in pairs(record.d) do
      if entry[LIVE] == 1 then
        record.s = now_ms
      end
    end
  end
  wish[1] = tonumber(ARGV[7])
end
if ARGV[8] == '1' then
  wish[2], wish[3] = ARGV[9], tonumber(ARGV[10])
end

if record.w == nil or cjson.encode(wish) ~= before then
  record.w = wish
  record.n = record.n + 1
  write_record(KEYS[2], record, now_ms, fence_ms, keep_ms)
  tell(KEYS[1], channel, bucket, {account})
end
return record.n
