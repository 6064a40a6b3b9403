-- Put before scripts that count what was used, after numbers.lua.
--
-- A record is a MessagePack array as in store/ledger/ledger.py: its nine sums (requests, estimated, input, cache_read,
-- write_5m, write_1h, output, cost_nano, savings_nano) are those of the aggregates, in which each field (caller, model
-- and account with zero bytes between them) holds a MessagePack array of them.

-- Add `sign` times the nine numbers after place `first` of `record` to those of `field`. `sums` has each field and its
-- numbers, one after the other, and where each field is.
local function add(sums, field, record, first, sign)
  local place = sums[field]
  if not place then
    place = #sums + 2
    sums[place - 1], sums[field] = field, place
    sums[place] = {0, 0, 0, 0, 0, 0, 0, 0, 0}
  end
  local sum = sums[place]
  for i = 1, 9 do
    sum[i] = sum[i] + sign * record[first + i]
  end
end

-- What an aggregate will hold with `sums` added to it: for `write`.
local function added(key, sums)
  local fields, set, gone, new = {}, {}, {}, false
  for place = 1, #sums, 2 do
    fields[#fields + 1] = sums[place]
  end
  local stored = redis.call('HMGET', key, unpack(fields))
  for f, field in ipairs(fields) do
    local sum, any = sums[2 * f], false
    local before = stored[f] and cmsgpack.unpack(stored[f])
    local after = {}
    for i = 1, 9 do
      after[i] = before and before[i] + sum[i] or sum[i]
      any = any or after[i] ~= 0
    end
    if any then
      set[#set + 1], set[#set + 2] = field, cmsgpack.pack(after)
      new = new or not before
    else
      gone[#gone + 1] = field
    end
  end
  return {set, gone, new}
end

-- What is zero altogether goes.
local function write(key, aggregate, lifetime)
  local set, gone, new = unpack(aggregate)
  if gone[1] then
    redis.call('HDEL', key, unpack(gone))
  end
  if set[1] then
    redis.call('HSET', key, unpack(set))
    if new then
      redis.call('PEXPIRE', key, lifetime, 'NX')
    end
  end
end

-- What a subject's numbers will be: `amount` is added to what it has spent in `day` and in `month`, unless a later one has
-- begun, `released` is taken off what it has reserved, and what `records` have used is taken from the buckets of
-- `debits`, if there are any: of each its place, its limit per minute and the four places among the sums (0: none) of
-- what is taken. And whether a day begins; nil if nothing changes.
local function charged(key, day, month, amount, released, debits, records, first, now)
  local numbers = numbers_of(key)
  local changed, before = released ~= 0, numbers[2]
  numbers[1] = numbers[1] - released
  if amount ~= 0 then
    for place = 2, 4, 2 do
      local period = place == 2 and day or month
      if numbers[place] == period then
        numbers[place + 1], changed = numbers[place + 1] + amount, true
      elseif numbers[place] < period then
        numbers[place], numbers[place + 1], changed = period, amount, true
      end
    end
  end
  if debits and records then
    for d = 1, #debits, 6 do
      local taken = 0
      for _, record in ipairs(records) do
        for j = d + 2, d + 5 do
          if debits[j] > 0 then
            taken = taken + record[first + debits[j]]
          end
        end
      end
      if taken ~= 0 then
        put(numbers, debits[d], level_of(numbers, debits[d], debits[d + 1], now) - taken, now)
        changed = true
      end
    end
  end
  if changed then
    return numbers, before ~= day
  end
end

-- Write them.
local function charge(key, numbers, begins)
  keep(key, numbers)
  if begins then
    redis.call('PEXPIRE', key, 3456000000) -- 40 days, in which its month ends
  end
end

local HOUR_FOR, DAY_FOR = 3024000000, 34560000000 -- ms for which aggregates are kept: 35 days, 400 days

