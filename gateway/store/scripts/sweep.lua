-- Find the reservations of one tenant that nobody will settle: their process is gone, or they came after their
-- settlement. Who finds some settles them, as estimates. Leases that have expired go, and what says of a request that is
-- gone that it reserves less.
--
-- KEYS     1 reservations, as in quota.lua, 2 to 4 settled ids of this hour and of the two before, as in ledger.lua,
--          then leases of subjects ...
-- ARGV     now (ms, 0 = this server's clock), cursor ('0' to begin), how many to look at, about, ms for which a
--          reservation is left alone, processes that are alive ...
-- returns  {cursor to go on with ('0' at the end), {request id, reservation, ...}}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
for k = 5, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[k], '-inf', now)
end
local alive, settled = {}, {}
for i = 5, #ARGV do
  alive[ARGV[i]] = true
end
for k = 2, 4 do
  settled[string.sub(KEYS[k], -10)] = k
end
local scanned = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local found = {}
for i = 1, #scanned[2], 2 do
  local id, packed = scanned[2][i], scanned[2][i + 1]
  local held = cmsgpack.unpack(packed)
  if string.sub(id, 1, 1) == '{' then -- of a conversation
    if redis.call('HEXISTS', KEYS[1], held[1]) == 0 then
      redis.call('HDEL', KEYS[1], id)
    end
  elseif held[2] + tonumber(ARGV[4]) <= now then
    local k = settled[held[3]]
    if not alive[held[1]] or (k and redis.call('HEXISTS', KEYS[k], id) == 1) then
      found[#found + 1] = id
      found[#found + 1] = packed
    end
  end
end
return {scanned[1], found}
