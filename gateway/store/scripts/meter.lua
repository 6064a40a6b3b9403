-- Advance the lines of a batch's results that are metered, unless somebody has done so since; or only ask.
--
-- KEYS[1]  metered lines (a number; none are 0), in the slot of the batch's owner
-- ARGV     lines as they were read ('' whatever they are), lines to advance to ('' only reads), lifetime (ms, 0 = for
--          ever)
-- returns  {1 if advanced, lines as they now stand}; they never become fewer
local lines = tonumber(redis.call('GET', KEYS[1]) or 0)
local target = tonumber(ARGV[2])
if not target or target <= lines or (ARGV[1] ~= '' and tonumber(ARGV[1]) ~= lines) then
  return {0, lines}
end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return {1, target}
