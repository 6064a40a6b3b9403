-- Of all processes, the first to ask may do something, for a while.
--
-- KEYS[1]  what is claimed
-- ARGV     process, milliseconds that the claim lasts
-- returns  1 if it is this process's, else 0
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return 1
end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
