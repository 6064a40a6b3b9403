-- Which requests of one hour are settled, so that only the others need be told.
--
-- KEYS     1 settled ids of the hour, 2 reservations, as in ledger.lua
-- ARGV     request ids ...
-- returns  for each: 2 if it is settled for good, 1 if as an estimate, 0 if not at all, or if it still reserves something
local found = redis.call('HMGET', KEYS[1], unpack(ARGV))
local held = redis.call('HMGET', KEYS[2], unpack(ARGV))
for i = 1, #ARGV do
  found[i] = held[i] and 0 or found[i] == '' and 2 or found[i] and 1 or 0
end
return found
