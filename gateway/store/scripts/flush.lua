-- Forget bindings, whoever uses them.
--
-- KEYS     conversations of one tenant, as in admit.lua
-- ARGV     workspace whose bindings go, '' for all; ms for which '' stands in their places, so that requests which have
--          used them do not bring them back when they end
-- returns  how many bindings went
local gone = 0
for k = 1, #KEYS do
  local flat = redis.call('HGETALL', KEYS[k])
  local left = 0
  for i = 1, #flat, 2 do
    local packed = flat[i + 1]
    local goes = ARGV[1] == ''
    if not goes then
      local b = read(packed)
      goes = b and b[1] == ARGV[1]
    end
    if packed ~= '' and goes then
      redis.call('HSET', KEYS[k], flat[i], '')
      gone = gone + 1
    elseif packed ~= '' then
      left = left + 1
    end
  end
  if left == 0 then
    redis.call('PEXPIRE', KEYS[k], ARGV[2], 'LT')
  end
end
return gone
