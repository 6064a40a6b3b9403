-- Admit one request: read the binding of its conversation, or create it with the proposed workspace.
--
-- KEYS[1]  binding (hash): w workspace, g generation, u warm until (ms), n tokens last seen
-- ARGV     now (ms, 0 = this server's clock), proposed workspace, lifetime of the record (ms)
-- returns  {1 if created, workspace, generation, warm until, tokens, now}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local bound = redis.call('HMGET', KEYS[1], 'w', 'g', 'u', 'n')
if bound[1] then
  return {0, bound[1], tonumber(bound[2]), tonumber(bound[3]), tonumber(bound[4]), now}
end
redis.call('HSET', KEYS[1], 'w', ARGV[2], 'g', 1, 'u', 0, 'n', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, ARGV[2], 1, 0, 0, now}
