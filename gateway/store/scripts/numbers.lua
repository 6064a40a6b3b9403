-- Put before scripts that read what subjects have left, or change it.
--
-- A subject's money and buckets are 15 numbers of 8 bytes each, in field `n` of its hash: nano-dollars reserved, the day
-- (such as 20261122), what was spent in it, the month (such as 202611), what was spent in it; then at the places that
-- core/spending/quota.py gives it each bucket's level, and when it had that (ms, 0: it is full); at the last places the
-- week (such as 2968, as from `week_of`) and what was spent in it.
local FORMAT = '<ddddddddddddddd'

-- The number of the week, Monday the first day, in which a day such as 20261122 lies.
local function week_of(day)
  local year, month = math.floor(day / 10000), math.floor(day / 100) % 100
  if month < 3 then
    year, month = year - 1, month + 12
  end
  local leaps = math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  local days = 365 * year + leaps + math.floor((153 * month - 457) / 5) + day % 100 - 719469 -- since 1970
  return math.floor((days + 3) / 7)
end

local function numbers_of(key)
  local packed = redis.call('HGET', key, 'n')
  if packed and #packed == 120 then
    return {struct.unpack(FORMAT, packed)}
  elseif packed and #packed == 104 then -- as once written, without the week
    return {struct.unpack(FORMAT, packed .. string.rep('\0', 16))}
  end
  local numbers = redis.call('HMGET', key, 'reserved', 'day', 'day_spent', 'month', 'month_spent') -- earlier still
  for place = 1, 15 do
    numbers[place] = tonumber(numbers[place] or 0) or 0
  end
  return numbers
end

local function keep(key, numbers)
  redis.call('HSET', key, 'n', struct.pack(FORMAT, unpack(numbers, 1, 15)))
end

-- What was spent in `period` under other tenants, to which the subject belonged before: field `c` has what they had, as
-- carry.lua put it there, at the places 1 (day), 3 (month) and 5 (week).
local function carried(key, place, period)
  local packed = redis.call('HGET', key, 'c')
  if packed and #packed == 48 then
    local first = place == 2 and 1 or place == 4 and 3 or 5
    local at, spent = select(first, struct.unpack('<dddddd', packed))
    return at >= period and spent or 0
  end
  return 0
end

-- What the bucket at `place` of `limit` a minute holds by now.
local function level_of(numbers, place, limit, now)
  local level, at = numbers[place], numbers[place + 1]
  if at == 0 then
    return limit
  end
  if now > at then
    level = level + (now - at) * limit / 60000
  end
  return level < limit and level or limit
end

