-- Put before scripts that count what was used, after numbers.lua.
--
-- A record is a MessagePack array as in store/ledger/ledger.py: its nine sums (requests, estimated, input, cache_read,
-- write_5m, write_1h, output, cost_nano, savings_nano) are those of the aggregates, in which each field (caller, model
-- and account with zero bytes between them) holds a MessagePack array of them.
local HOUR_FOR, DAY_FOR = '3024000000', '34560000000' -- ms for which aggregates are kept: 35 days, 400 days

-- Add `sign` times the nine numbers after place `first` of `record` to the `sums` of the field; `fields` has each once.
local function add(fields, sums, field, record, first, sign)
  local sum = sums[field]
  if not sum then
    sum = {0, 0, 0, 0, 0, 0, 0, 0, 0}
    fields[#fields + 1], sums[field] = field, sum
  end
  for i = 1, 9 do
    sum[i] = sum[i] + sign * record[first + i]
  end
end

-- What an aggregate will hold with `sums` added to it: fields and values to set, fields to remove (those that are zero
-- altogether), and whether there are new ones.
local function added(key, fields, sums)
  local stored, set, gone, new = redis.call('HMGET', key, unpack(fields)), {}, {}, false
  for f = 1, #fields do
    local field = fields[f]
    local sum, any = sums[field], false
    local after = stored[f] and cmsgpack.unpack(stored[f])
    if after then
      for i = 1, 9 do
        after[i] = after[i] + sum[i]
      end
    else
      after = sum
    end
    for i = 1, 9 do
      if after[i] ~= 0 then
        any = true
        break
      end
    end
    if any then
      set[#set + 1], set[#set + 2] = field, cmsgpack.pack(after)
      new = new or not stored[f]
    else
      gone[#gone + 1] = field
    end
  end
  return set, gone, new
end

local function write(key, set, gone, new, lifetime)
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

local function spend_in(numbers, place, period, amount)
  if numbers[place] == period then
    numbers[place + 1] = numbers[place + 1] + amount
  elseif numbers[place] < period then
    numbers[place], numbers[place + 1] = period, amount
  else
    return false
  end
  return true
end

-- Add `amount` to what a subject has spent in `day`, in its `week` and in `month`, unless a later one has begun. Whether
-- that changes its numbers.
local function spend(numbers, day, week, month, amount)
  if amount == 0 then
    return false
  end
  local in_day = spend_in(numbers, 2, day, amount)
  local in_week = spend_in(numbers, 14, week, amount)
  return spend_in(numbers, 4, month, amount) or in_week or in_day
end

-- Keep a subject's numbers for 40 days, in which its month ends.
local function keep_for_long(key)
  redis.call('PEXPIRE', key, '3456000000')
end

