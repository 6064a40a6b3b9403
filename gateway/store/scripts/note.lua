-- Note what requests on their way have reserved, for a store that has lost it or could not be asked. One that is settled
-- already, or noted, stays so.
--
-- KEYS     1 reservations, 2 settled ids of the hour in which they arrived, as in ledger.lua, then for each subject its
--          buckets and money, and its leases
-- ARGV     now (ms, 0 = this server's clock), ms for which leases are kept, then request id, reservation, as in
--          quota.lua ...
-- returns  how many were not there
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local noted = 0
for i = 3, #ARGV, 2 do
  local id, packed = ARGV[i], ARGV[i + 1]
  if redis.call('HEXISTS', KEYS[2], id) == 0 and redis.call('HSETNX', KEYS[1], id, packed) == 1 then
    noted = noted + 1
    local held = cmsgpack.unpack(packed)
    for _, s in ipairs(held[12]) do
      redis.call('ZADD', KEYS[2 + 2 * s], now + ARGV[2], id)
    end
    for _, s in ipairs(held[13]) do
      local numbers = numbers_of(KEYS[1 + 2 * s])
      numbers[1] = numbers[1] + held[11]
      keep(KEYS[1 + 2 * s], numbers)
    end
  end
end
return noted
