-- Put before scripts that read what subjects have left, or change it.
--
-- A subject's money and buckets are numbers of 8 bytes each, in field `n` of its hash: nano-dollars reserved, the day (such
-- as 20261122), what was spent in it, the month (such as 202611), what was spent in it; then at the places that
-- core/spending/quota.py gives it each bucket's level, and when it had that (ms, 0: it is full).

local function numbers_of(key)
  local packed = redis.call('HGET', key, 'n')
  if not packed then -- money as it was once written, in fields of its own
    local numbers = redis.call('HMGET', key, 'reserved', 'day', 'day_spent', 'month', 'month_spent')
    for place = 1, 5 do
      numbers[place] = tonumber(numbers[place] or 0) or 0
    end
    return numbers
  end
  local count = math.floor(#packed / 8)
  local numbers = {struct.unpack('<' .. string.rep('d', count), packed)}
  numbers[count + 1] = nil -- where it stopped to read
  for place = count + 1, 5 do
    numbers[place] = 0
  end
  return numbers
end

local function keep(key, numbers)
  redis.call('HSET', key, 'n', struct.pack('<' .. string.rep('d', #numbers), unpack(numbers)))
end

-- What the bucket at `place` of `limit` a minute holds by now.
local function level_of(numbers, place, limit, now)
  local level, at = numbers[place], numbers[place + 1] or 0
  if at == 0 then
    return limit
  end
  if now > at then
    level = level + (now - at) * limit / 60000
  end
  return level < limit and level or limit
end

local function put(numbers, place, level, now)
  for before = #numbers + 1, place - 1 do
    numbers[before] = 0
  end
  numbers[place], numbers[place + 1] = level, now
end

