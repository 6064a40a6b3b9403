-- Admit one request that has no conversation.
--
-- KEYS     what it reserves, from the first, as in quota.lua
-- ARGV     now (ms, 0 = this server's clock), then from the second as in quota.lua
-- returns  {0, false, now, levels, 1 if money is short}; {2, row, ms, levels} if a limit refuses, as in quota.lua
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local refused, levels, short = unpack(reserve(now, {{k = 1, a = 2}})[1], 1, 3)
return refused or {0, false, now, levels, short}
