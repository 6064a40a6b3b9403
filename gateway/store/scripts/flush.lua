-- Forget bindings, whoever uses them.
--
-- KEYS     conversations of one tenant, as in admit.lua
-- ARGV     workspace whose bindings go, '' for all
-- returns  how many bindings went
local gone = 0
for k = 1, #KEYS do
  if ARGV[1] == '' then
    gone = gone + redis.call('HLEN', KEYS[k])
    redis.call('DEL', KEYS[k])
  else
    local flat = redis.call('HGETALL', KEYS[k])
    for i = 1, #flat, 2 do
      local read, bound = pcall(cmsgpack.unpack, flat[i + 1])
      if read and type(bound) == 'table' and bound[1] == ARGV[1] then
        gone = gone + redis.call('HDEL', KEYS[k], flat[i])
      end
    end
  end
end
return gone
