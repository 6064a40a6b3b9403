-- Admit one request: read the binding of its conversation for this model, or create it as proposed.
--
-- KEYS[1]  conversation (hash: model -> binding, a MessagePack array as in core/binding.py)
-- ARGV     now (ms, 0 = this server's clock), model, proposed binding, its generation (a newer one than the stored
--          one's comes from before the store lost its data, and wins), lifetime of the record (ms)
-- returns  {1 if created, binding, now}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local bound = redis.call('HGET', KEYS[1], ARGV[2])
if bound and (ARGV[4] == '1' or cmsgpack.unpack(bound)[2] >= tonumber(ARGV[4])) then
  return {0, bound, now}
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return {1, ARGV[3], now}
