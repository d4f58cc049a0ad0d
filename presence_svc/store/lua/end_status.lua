-- Takes away a status text whose end has come, so that its end has a version like every change.
-- Returns 1 when it did, 0 when another replica was first or the text was changed meanwhile.
--
-- KEYS[1]    change counter of the bucket
-- KEYS[2]    account record
-- ARGV[1…6]  channel, bucket, account id, now (Unix ms), life of a fence (ms), life of a record
--            without session or wish (ms)
local channel, bucket, account = ARGV[1], ARGV[2], ARGV[3]
local now_ms, fence_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local record = read_record(KEYS[2])
local wish = record.w

if not wish or wish[3] == 0 or wish[3] > now_ms then
  return 0
end
wish[2], wish[3] = '', 0
record.n = record.n + 1
write_record(KEYS[2], record, now_ms, fence_ms, keep_ms)
tell(KEYS[1], channel, bucket, {account})
return 1
