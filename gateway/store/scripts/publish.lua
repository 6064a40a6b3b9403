-- Replace the pool document if it is still the one that was read, and tell the others.
--
-- KEYS[1]  pool document (JSON)
-- ARGV     the document that was read ('' for none), the new one, channel
-- returns  1 if it was replaced
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], 'document')
return 1
