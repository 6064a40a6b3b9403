-- Put before scripts that admit requests.

-- Take for one request what all of its limits ask, or nothing, and note it as a reservation. Once for each request id.
--
-- KEYS     from `k`: reservations (hash: request id -> MessagePack as in store/ledger/ledger.py), then for each subject its
--          buckets and money (hash), and its leases (zset: request id -> expiry, ms)
-- ARGV     from `a`: request id, reservation ('' to note none), limits, nano-dollars to reserve, day, month (such as
--          20261122 and 202611); perhaps nano-dollars of them that are not needed if the conversation's cache is read:
--          for one request of a conversation at a time, whose id the last key has
--
-- Limits are '', or a MessagePack array that has for each subject: the number of fields to read, the fields, the number
-- of rows to check, and five things of each row:
--   1, place of the field, limit per minute, level needed (0: any above 0), tokens to take    a token bucket
--   2, place of the period (what was spent in it is next), limit in nano-dollars, which argument names the period, place
--   of what is reserved                                                                        money
--   3, 0, limit, ms, 0                                                                         a lease
--
-- returns  what to reply if it is refused: {2, which row refuses, ms to wait (-1 unknown), levels}; else nil, and the
--          level of each bucket. Of several rows that refuse, the one with the longest wait says so.
local function reserve(now, k, a)
  local id, noted, levels = ARGV[a], ARGV[a + 1] ~= '', {}
  if ARGV[a + 2] == '' then
    if noted then
      redis.call('HSETNX', KEYS[k], id, ARGV[a + 1])
    end
    return nil, levels
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
  local number, refusing, longest = 0, nil, -1
  local sets, leases, takes = {}, {}, {}
  local p, hash = 1, k + 1
  while limits[p] do
    local names, set, reserving = p, {}, false
    p = p + limits[p] + 1
    local stored = p > names + 1 and redis.call('HMGET', KEYS[hash], unpack(limits, names + 1, p - 1))
    local last = p + 5 * limits[p]
    p = p + 1
    while p < last do
      local form, place, limit, wait = limits[p], limits[p + 1], limits[p + 2], -1
      number = number + 1
      if form == 1 then
        local level, need, take = level_of(stored[place], limit, now), limits[p + 3], limits[p + 4]
        if level < need or level <= 0 then
          wait = math.max(1, math.ceil((need - level) * 60000 / limit))
        end
        if take > 0 then
          level = level - take
          set[#set + 1] = limits[names + place]
          set[#set + 1] = level .. ' ' .. now
          takes[#levels + 1] = take
        end
        levels[#levels + 1] = level
      elseif form == 2 then
        local reserved = tonumber(stored[limits[p + 4]] or 0)
        local left = limit - reserved
        if (stored[place] or '') >= ARGV[a + limits[p + 3]] then
          left = left - stored[place + 1]
        end
        if left < amount or left <= 0 then
          wait = math.huge
        end
        if not reserving then
          reserving = true
          set[#set + 1] = limits[names + limits[p + 4]]
          set[#set + 1] = reserved + amount
        end
      else
        local key = KEYS[hash + 1]
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
    if set[1] then
      sets[hash] = set
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
  if known then -- the reply was lost, and it was asked again
    for i, take in pairs(takes) do
      levels[i] = levels[i] + take
    end
    return nil, levels
  end
  if refusing then
    for i, take in pairs(takes) do
      levels[i] = levels[i] + take
    end
    return {2, refusing, (longest == 0 or longest == math.huge) and -1 or longest, levels}
  end
  for i, set in pairs(sets) do
    redis.call('HSET', KEYS[i], unpack(set))
  end
  if discounted then
    redis.call('SET', KEYS[#KEYS], id, 'PX', 7200000) -- longer than any answer takes
  end
  for i, expiry in pairs(leases) do
    redis.call('ZADD', KEYS[i], expiry, id)
  end
  return nil, levels
end

