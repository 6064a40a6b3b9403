-- Replace the pool document if it is still the one that was read, and tell the others. A store that has lost the
-- document has lost the overrides too: they are given back with it, but for those that somebody made since.
--
-- KEYS     1 pool document (JSON), 2 overrides (hash account -> JSON object)
-- ARGV     the document that was read ('' for none), the new one, channel, {account, override} of the last overrides
--          known ...
-- returns  1 if it was replaced
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
if present == '' then
  for i = 4, #ARGV, 2 do
    redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
redis.call('PUBLISH', ARGV[3], 'document')
return 1
