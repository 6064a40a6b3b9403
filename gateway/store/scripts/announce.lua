-- One heartbeat of a gateway: say what it holds, drop the dead, and learn what the others say.
--
-- KEYS     1 announcements (hash id -> JSON), 2 heartbeats (zset id -> ms), 3 pool document (JSON), 4 overrides (hash),
--          5 schema version (string)
-- ARGV     now (ms, 0 = this server's clock), process id, its announcement (JSON, '' to leave), ms after which a
--          silent process is dead, schema version of the caller
-- returns  {schema version in force, document or false, {announcement, ...}, {account, override JSON, ...}, now,
--          1 if this process's last heartbeat was still here}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local schema = tonumber(redis.call('GET', KEYS[5]) or 0)
if schema > tonumber(ARGV[5]) then
  return {schema, false, {}, {}, now, 0}
end
if schema < tonumber(ARGV[5]) then
  redis.call('SET', KEYS[5], ARGV[5])
end
local known = redis.call('ZSCORE', KEYS[2], ARGV[2]) and 1 or 0
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  redis.call('ZREM', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
  redis.call('ZADD', KEYS[2], now, ARGV[2])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[4]))) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
local said, overrides = redis.call('HVALS', KEYS[1]), redis.call('HGETALL', KEYS[4])
return {tonumber(ARGV[5]), redis.call('GET', KEYS[3]), said, overrides, now, known}
