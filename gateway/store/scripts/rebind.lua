-- Move a conversation to another workspace, unless somebody has moved it since it was read.
--
-- KEYS[1]  conversation, as in admit.lua
-- ARGV     now (ms, 0 = this server's clock), model, generation the caller read, workspace it read, new workspace,
--          reason, lifetime of the record (ms), 1 if nothing forced the move,
--          ms that the request which moves it may be on its way there
-- returns  {1 if moved, binding as it now stands}; a record that is gone is created
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local packed = redis.call('HGET', KEYS[1], ARGV[2])
local b = read(packed)
if b and (b[2] > tonumber(ARGV[3]) or (b[2] == tonumber(ARGV[3]) and b[1] ~= ARGV[4])) then
  return {0, packed}
end
if not b or b[2] < tonumber(ARGV[3]) then
  b = {ARGV[4], tonumber(ARGV[3]), 0, 0, 0, 0, '', 0, 0, '', 0, 0, {}}
end
local from, warm, tokens, size = b[1], 0, 0, 0
if ARGV[5] == b[10] and b[11] > now then
  warm, tokens, size = b[11], b[4], b[5]
  b[10], b[11] = '', 0
elseif ARGV[5] == b[7] and b[8] > now then
  warm, tokens = b[8], b[9]
  size = b[4] > 0 and math.floor(b[5] * b[9] / b[4]) or 0
end
b[7], b[8], b[9] = from, b[3], b[4]
b[1], b[2], b[3], b[4], b[5] = ARGV[5], b[2] + 1, warm, tokens, size
b[14], b[15] = b[14] or '', now + tonumber(ARGV[9])
if ARGV[8] == '1' then
  b[12] = now
end
if #b[13] >= 5 then
  table.remove(b[13], 1)
end
table.insert(b[13], {now, from, ARGV[5], ARGV[6]})
packed = cmsgpack.pack(b)
redis.call('HSET', KEYS[1], ARGV[2], packed)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[7]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
end
return {1, packed}
