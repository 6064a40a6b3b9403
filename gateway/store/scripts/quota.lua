-- Put before scripts that admit requests, after numbers.lua.

-- Take for one request what all of its limits ask, or nothing, and note it as a reservation. Once for each request id.
--
-- KEYS     from `k`: reservations (hash: request id -> MessagePack as in store/ledger/ledger.py), then for each subject its
--          buckets and money as in numbers.lua, and its leases (zset: request id -> expiry, ms)
-- ARGV     from `a`: request id, reservation ('' to note none), limits, nano-dollars to reserve, day, month (such as
--          20261122 and 202611); perhaps nano-dollars of them that are not needed if the conversation's cache is read:
--          for one request of a conversation at a time, whose id the last key has
--
-- Limits are '', or a MessagePack array that has for each subject the number of rows to check, and five things of each:
--   1, place, limit per minute, level needed (0: any above 0), tokens to take        a token bucket
--   2, place of the period (what was spent in it is next), limit in nano-dollars, 1 if more of it may have been spent under
--      another tenant, 1 if what is left is to be told among the levels    money
--   3, 0, limit, ms, 0                                                           a lease
--
-- returns  what to reply if it is refused: {2, which row refuses, ms to wait (-1 unknown), levels}; else nil, the level of
--          each bucket and what is left of money that is to be told, and 1 if money is left for less than ten such requests, else 0. Of several rows that refuse, the
--          one with the longest wait says so.
local function reserve(now, k, a)
  local id, noted, levels = ARGV[a], ARGV[a + 1] ~= '', {}
  if ARGV[a + 2] == '' then
    if noted then
      redis.call('HSETNX', KEYS[k], id, ARGV[a + 1])
    end
    return nil, levels, 0
  end
  local limits, amount, reservation = cmsgpack.unpack(ARGV[a + 2]), tonumber(ARGV[a + 3]), ARGV[a + 1]
  local discounted = false
  if ARGV[a + 6] then
    local holder = redis.call('GET', KEYS[#KEYS])
    discounted = not holder or holder == id or redis.call('HEXISTS', KEYS[k], holder) == 0
    if discounted then
      local held = cmsgpack.unpack(reservation)
      amount = amount - tonumber(ARGV[a + 6])
      held[11] = amount
      reservation = cmsgpack.pack(held)
    end
  end
  local day, month = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local number, refusing, longest, short = 0, nil, -1, 0
  local changed, leases, takes = {}, nil, nil
  local p, hash = 1, k + 1
  while limits[p] do
    local numbers, reserving, taking = numbers_of(KEYS[hash]), false, false
    local last = p + 5 * limits[p]
    p = p + 1
    while p < last do
      local form, place, limit, wait = limits[p], limits[p + 1], limits[p + 2], -1
      number = number + 1
      if form == 1 then
        local level, need, take = level_of(numbers, place, limit, now), limits[p + 3], limits[p + 4]
        if level < need or level <= 0 then
          wait = math.max(1, math.ceil((need - level) * 60000 / limit))
        end
        if take > 0 then
          level = level - take
          numbers[place], numbers[place + 1], taking = level, now, true
          takes = takes or {}
          takes[#levels + 1] = take
        end
        levels[#levels + 1] = level
      elseif form == 2 then
        local left, period = limit - numbers[1], month
        if place == 2 then
          period = day
        elseif place == 14 then
          period = week_of(day)
        end
        if numbers[place] >= period then
          left = left - numbers[place + 1]
        end
        if limits[p + 3] == 1 then
          left = left - carried(KEYS[hash], place, period)
        end
        if limits[p + 4] == 1 then
          levels[#levels + 1] = left
        end
        if left < amount or left <= 0 then
          wait = math.huge
        elseif left < 10 * amount then
          short = 1
        end
        reserving = true
      else
        local key = KEYS[hash + 1]
        leases = leases or {}
        leases[hash + 1] = now + limits[p + 3]
        if redis.call('ZCARD', key) >= limit then
          redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
          if redis.call('ZCARD', key) >= limit then
            wait = 0
          end
        end
      end
      if wait > longest then
        refusing, longest = number, wait
      end
      p = p + 5
    end
    if reserving then
      numbers[1] = numbers[1] + amount
    end
    if reserving or taking then
      changed[hash] = numbers
    end
    hash = hash + 2
  end
  local known
  if noted then
    if refusing then
      known = redis.call('HEXISTS', KEYS[k], id) == 1
    else
      known = redis.call('HSETNX', KEYS[k], id, reservation) == 0
    end
  end
  if takes and (known or refusing) then
    for i, take in pairs(takes) do
      levels[i] = levels[i] + take
    end
  end
  if known then -- the reply was lost, and it was asked again
    return nil, levels, short
  end
  if refusing then
    return {2, refusing, (longest == 0 or longest == math.huge) and -1 or longest, levels}
  end
  for i, numbers in pairs(changed) do
    keep(KEYS[i], numbers)
  end
  if discounted then
    redis.call('SET', KEYS[#KEYS], id, 'PX', 7200000) -- longer than any answer takes
  end
  if leases then
    for i, expiry in pairs(leases) do
      redis.call('ZADD', KEYS[i], expiry, id)
    end
  end
  return nil, levels, short
end

