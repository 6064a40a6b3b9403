-- Admit one request: reserve what its limits ask, then read the binding of its conversation for this model, or create
-- it as proposed. One that a limit refuses changes nothing.
--
-- KEYS     1 conversation (hash: model -> binding, a MessagePack array as in core/routing/binding.py); where there is a
--          reservation, from 2 as in quota.lua, and the last one as there if part of it may not be needed
-- ARGV     now (ms, 0 = this server's clock), model, proposed binding, its generation (a newer one than the stored
--          one's comes from before the store lost its data, and wins), lifetime of the record (ms), ms for which a
--          conversation that is cold counts as in flight from now on (0: do not look, it should be warm); where there is
--          a reservation, from 7 as in quota.lua
-- returns  {1 if created, binding as it was found, now}, the levels and 1 if money is short if there is a reservation;
--          {2, row, ms, levels} if a limit refuses, as in quota.lua
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local levels, short
if #KEYS > 1 then
  local refused
  refused, levels, short = reserve(now, 2, 7)
  if refused then
    return refused
  end
end
local bound = redis.call('HGET', KEYS[1], ARGV[2])
if bound and bound ~= '' then
  local known = ARGV[4] == '1'
  if not known then
    local ok, b = pcall(cmsgpack.unpack, bound)
    known = ok and type(b) == 'table' and type(b[2]) == 'number' and b[2] >= tonumber(ARGV[4])
  end
  if known then
    if ARGV[6] ~= '0' then
      local b = read(bound)
      if b and b[3] <= now and (b[15] or 0) <= now then
        b[14], b[15] = b[14] or '', now + tonumber(ARGV[6])
        redis.call('HSET', KEYS[1], ARGV[2], cmsgpack.pack(b))
      end
    end
    return {0, bound, now, levels, short}
  end
elseif redis.call('HLEN', KEYS[1]) >= 64 then
  redis.call('DEL', KEYS[1]) -- nobody talks to so many models: names of somebody's invention
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return {1, ARGV[3], now, levels, short}
