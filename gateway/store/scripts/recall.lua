-- Where a conversation lives, without creating anything.
--
-- KEYS[1]  binding, as in admit.lua
-- returns  the workspace or false
return redis.call('HGET', KEYS[1], 'w')
