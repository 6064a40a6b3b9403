-- Settle one request: its conversation's cache is warm again where it was served.
--
-- A record that is gone (expired, flushed, or never written while the store was away) is created from what the
-- process knows; one of another generation belongs to a later decision and stays as it is.
--
-- KEYS[1]  binding, as in admit.lua
-- ARGV     now (ms, 0 = this server's clock), workspace that served, generation the request knew (0 = none),
--          ms since the response began, cache lifetime (ms), tokens of the prompt (0 = not known yet),
--          lifetime of the record (ms)
-- returns  1 if the binding was renewed or created, 0 if it belongs to another generation
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local bound = redis.call('HMGET', KEYS[1], 'g', 'u', 'n')
local warm = now - tonumber(ARGV[4]) + tonumber(ARGV[5])
local tokens = tonumber(ARGV[6])
if bound[1] then
  if bound[1] ~= ARGV[3] then
    return 0
  end
  warm = math.max(warm, tonumber(bound[2]))
  if tokens == 0 then
    tokens = tonumber(bound[3])
  end
  redis.call('HSET', KEYS[1], 'u', string.format('%d', warm), 'n', tokens)
else
  redis.call('HSET', KEYS[1], 'w', ARGV[2], 'g', math.max(1, tonumber(ARGV[3])), 'u', string.format('%d', warm), 'n', tokens)
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return 1
