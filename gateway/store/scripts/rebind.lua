-- Move a conversation to another workspace, unless somebody has moved it since it was read.
--
-- KEYS[1]  binding, as in admit.lua
-- ARGV     generation the caller read, new workspace, lifetime of the record (ms)
-- returns  {1 if moved, workspace, generation} as the binding now stands; a record that is gone is created
local bound = redis.call('HMGET', KEYS[1], 'w', 'g')
local moved = 0
if not bound[1] or bound[2] == ARGV[1] then
  bound = {ARGV[2], tonumber(ARGV[1]) + 1}
  redis.call('HSET', KEYS[1], 'w', bound[1], 'g', bound[2], 'u', 0, 'n', 0)
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  moved = 1
end
return {moved, bound[1], tonumber(bound[2])}
