-- Put before scripts that read what subjects have left, or change it.
--
-- A subject's money and buckets are 13 numbers of 8 bytes each, in field `n` of its hash: nano-dollars reserved, the day
-- (such as 20261122), what was spent in it, the month (such as 202611), what was spent in it; then at the places that
-- core/spending/quota.py gives it each bucket's level, and when it had that (ms, 0: it is full).
local FORMAT = '<ddddddddddddd'

local function numbers_of(key)
  local packed = redis.call('HGET', key, 'n')
  if packed and #packed == 104 then
    return {struct.unpack(FORMAT, packed)}
  end
  local numbers = redis.call('HMGET', key, 'reserved', 'day', 'day_spent', 'month', 'month_spent') -- as once written
  for place = 1, 13 do
    numbers[place] = tonumber(numbers[place] or 0) or 0
  end
  return numbers
end

local function keep(key, numbers)
  redis.call('HSET', key, 'n', struct.pack(FORMAT, unpack(numbers, 1, 13)))
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

