-- What subjects of one tenant have used of their limits, for operators; changes nothing.
--
-- KEYS     for each subject: its buckets and money as in numbers.lua, its leases (zset: request id -> expiry, ms)
-- ARGV     now (ms, 0 = this server's clock), for each subject a MessagePack array: place and limit of each bucket
-- returns  {now, {level of each bucket, ..., day, spent in it, week, spent in it, month, spent in it, reserved, leases,
--          what was carried to it, as carry.lua put it, or false}, ...}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local found = {now}
for s = 1, #KEYS / 2 do
  local key = KEYS[2 * s - 1]
  local buckets, numbers, row = cmsgpack.unpack(ARGV[1 + s]), numbers_of(key), {}
  for b = 1, #buckets, 2 do
    row[#row + 1] = math.floor(level_of(numbers, buckets[b], buckets[b + 1], now))
  end
  for _, place in ipairs({2, 3, 14, 15, 4, 5, 1}) do
    row[#row + 1] = numbers[place]
  end
  row[#row + 1] = redis.call('ZCOUNT', KEYS[2 * s], '(' .. now, '+inf')
  row[#row + 1] = redis.call('HGET', key, 'c')
  found[#found + 1] = row
end
return found
