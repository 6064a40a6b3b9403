-- A conversation's binding for one model, without creating anything.
--
-- KEYS[1]  conversation, as in admit.lua
-- ARGV     model
-- returns  the binding or false
return redis.call('HGET', KEYS[1], ARGV[1])
