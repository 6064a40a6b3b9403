-- Everything kept of one conversation, for operators; changes nothing.
--
-- KEYS[1]  conversation, as in admit.lua
-- ARGV     now (ms, 0 = this server's clock)
-- returns  {{model, binding, ...}, ms that the record still lives (-1 for ever, -2 if there is none), now}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
return {redis.call('HGETALL', KEYS[1]), redis.call('PTTL', KEYS[1]), now}
