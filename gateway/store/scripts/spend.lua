-- Count one request, without the binding of a conversation.
--
-- KEYS     from the first as in ledger.lua
-- ARGV     now (ms, 0 = this server's clock), then from the second as in ledger.lua
-- returns  as in ledger.lua
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
return count(now, 1, 2)
