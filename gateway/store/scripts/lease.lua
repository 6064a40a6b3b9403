-- Keep the leases of requests that are running: a lease that is not renewed belongs to nobody any more.
--
-- KEYS[1]  leases of one subject (zset: request id -> expiry, ms)
-- ARGV     now (ms, 0 = this server's clock), ms for which they are kept, request ids ...
-- returns  how many leases there are now
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local expiry = now + tonumber(ARGV[2])
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], expiry, ARGV[i]) -- one that the store has lost is there again
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZCARD', KEYS[1])
