-- Forget who owns an object that is gone, and let nobody bring the record back for a while.
--
-- KEYS     1 owner, as in own.lua, 2 metered lines, as in meter.lua
-- ARGV     ms for which the id cannot be owned again
-- returns  1 if it had an owner
local stored = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
redis.call('DEL', KEYS[2])
return stored and stored ~= '' and 1 or 0
