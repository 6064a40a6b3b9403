-- Give back to a tenant what one journal had counted in some hours of one day, for a store that has lost it. Once for
-- each hour; an hour that is marked has lost nothing.
--
-- KEYS     1 marks (hash: journal and hour -> ''), 2 aggregates of the day, then the aggregates of each hour, then the
--          buckets and money, as in numbers.lua, that the rows name
-- ARGV     day, month, then for each hour its mark and its rows: a MessagePack array of {field of the aggregates,
--          {which keys are charged, ...}, the nine sums}, as in ledger.lua
-- returns  which of the hours were not marked (1 is the first)
local new, spent, day, day_sums = {}, {}, {}, {}
for h = 1, #ARGV / 2 - 1 do
  if redis.call('HSETNX', KEYS[1], ARGV[1 + 2 * h], '') == 1 then
    new[#new + 1] = h
    local hour, sums = {}, {}
    for _, row in ipairs(cmsgpack.unpack(ARGV[2 + 2 * h])) do
      add(hour, sums, row[1], row, 2, 1)
      add(day, day_sums, row[1], row, 2, 1)
      for _, key in ipairs(row[2]) do
        spent[key] = (spent[key] or 0) + row[10]
      end
    end
    if hour[1] then
      local set, gone, fresh = added(KEYS[2 + h], hour, sums)
      write(KEYS[2 + h], set, gone, fresh, HOUR_FOR)
    end
  end
end
if day[1] then
  local set, gone, fresh = added(KEYS[2], day, day_sums)
  write(KEYS[2], set, gone, fresh, DAY_FOR)
end
local today, month = tonumber(ARGV[1]), tonumber(ARGV[2])
for key, amount in pairs(spent) do
  local numbers = numbers_of(KEYS[key])
  local earlier = numbers[2]
  if spend(numbers, today, week_of(today), month, amount) then
    keep(KEYS[key], numbers)
    if earlier ~= today then
      keep_for_long(KEYS[key])
    end
  end
end
if new[1] then
  redis.call('PEXPIRE', KEYS[1], 3110400000, 'NX') -- 36 days
end
return new
