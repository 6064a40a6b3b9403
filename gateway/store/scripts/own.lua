-- Say who owns an object, unless somebody does already; or only ask.
--
-- KEYS[1]  owner of the object (a MessagePack array as in store/owners.py; '' where it was disowned)
-- ARGV     owner ('' only reads), lifetime of the record (ms, 0 = for ever)
-- returns  the owner as it now stands, whose record lives longer now if it is the same; false where there is none, or
--          none any more: an id is not used again
local stored = redis.call('GET', KEYS[1])
if ARGV[1] == '' or stored == '' then
  return stored ~= '' and stored
end
local lifetime = tonumber(ARGV[2])
if not stored then
  if lifetime == 0 then
    redis.call('SET', KEYS[1], ARGV[1])
  else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  end
  return ARGV[1]
end
local said = cmsgpack.unpack(ARGV[1])
local read, present = pcall(cmsgpack.unpack, stored)
if read and type(present) == 'table' and present[1] == said[1] and present[2] == said[2] then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and lifetime == 0 then
    redis.call('PERSIST', KEYS[1])
  elseif left >= 0 and left < lifetime then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
return stored
