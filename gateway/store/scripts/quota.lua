-- Put before scripts that admit requests, after numbers.lua.

-- Take for each of some requests, in turn, what all of its limits ask, or nothing, and note it as a reservation. Once for
-- each request id. Everything is read before anything is written.
--
-- `asks` is an array of tables: `k`, the place of the request's first key, `a`, that of its first argument, and `w`, the
-- key of its conversation's bindings if part of what it reserves may not be needed, else nil:
-- KEYS     from `k`: reservations (hash: request id -> MessagePack as in store/ledger/ledger.py; key of a conversation's
--          bindings -> MessagePack array of the id of its one request at a time that reserves less, and NEVER), then for
--          each subject its buckets and money as in numbers.lua, and its leases (zset: request id -> expiry, ms)
-- ARGV     from `a`: request id, reservation ('' to note none), limits, nano-dollars to reserve, day, month (such as
--          20261122 and 202611); with `w` also nano-dollars of them that are not needed if the conversation's cache is read,
--          and the reservation without them
--
-- Limits are '', or a MessagePack array that has for each subject the number of rows to check, and five things of each:
--   1, place, limit per minute, level needed (0: any above 0), tokens to take        a token bucket
--   2, place of the period (what was spent in it is next), limit in nano-dollars, 1 if more of it may have been spent under
--      another tenant, 1 if what is left is to be told among the levels    money
--   3, 0, limit, ms, 0                                                           a lease
--
-- returns  for each request {refused, levels, short}. `refused` is nil, or what to reply: {2, which row refuses, ms to wait
--          (-1 unknown), levels}; of several rows that refuse, the one with the longest wait says so. `levels` are those of
--          its buckets and what is left of money that is to be told; `short` is 1 if money is left for less than ten such
--          requests, else 0.
local NEVER = 9007199254740992 -- ms: who takes it for the time of a reservation leaves it alone

local function put(lists, key, one, other)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  list[#list + 1] = one
  list[#list + 1] = other
end

-- What the reservations of the requests hold by now: by request id, and by conversation which one reserves less;
-- false where there is none.
local function held_of(asks)
  local fields, held = {}, {}
  for i = 1, #asks do
    local ask = asks[i]
    if ARGV[ask.a + 1] ~= '' then
      put(fields, KEYS[ask.k], ARGV[ask.a], ask.w)
    end
  end
  for key, those in pairs(fields) do
    local found = redis.call('HMGET', key, unpack(those))
    for i = 1, #those do
      held[those[i]] = found[i]
    end
  end
  return held
end

-- Whether a request may reserve less: no other one of its conversation does.
local function alone(held, key, conversation, id)
  if not held[conversation] then
    return true
  end
  local holder = cmsgpack.unpack(held[conversation])[1]
  if holder == id then
    return true
  end
  if held[holder] == nil then
    held[holder] = redis.call('HGET', key, holder)
  end
  return not held[holder]
end

-- The present day, month and week, by their places among the numbers.
local function periods_of(day, month)
  return {[2] = tonumber(day), [4] = tonumber(month), [14] = week_of(tonumber(day))}
end

local function reserve(now, asks)
  local results, numbers, now_in, cards, compiled, of_day = {}, {}, {}, {}, {}, {} -- `now_in`: what buckets hold by now
  local noting, changed, entering = {}, {}, {} -- what is to be written, by key
  local held = held_of(asks)
  for i = 1, #asks do
    local k, a, w = asks[i].k, asks[i].a, asks[i].w
    local id, reservation, packed, amount = ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])
    local levels, n, short, refusing, longest, number = {}, 0, 0, nil, -1, 0
    local taken, t, reserved, leases = {}, 0, nil, nil -- of buckets: numbers, place, tokens, place among the levels, key
    if w then
      if alone(held, KEYS[k], w, id) then
        amount, reservation = amount - tonumber(ARGV[a + 6]), ARGV[a + 7]
      else
        w = nil
      end
    end
    local limits = compiled[packed]
    if not limits then
      limits = packed ~= '' and cmsgpack.unpack(packed) or {}
      compiled[packed] = limits
    end
    local p, hash = 1, k + 1
    while limits[p] do
      local key = KEYS[hash]
      local last = p + 5 * limits[p]
      local its = numbers[key]
      if not its then
        its = numbers_of(key)
        numbers[key], now_in[its] = its, {}
      end
      local filled = now_in[its]
      p = p + 1
      while p < last do
        local form, place, limit = limits[p], limits[p + 1], limits[p + 2]
        local wait = -1
        number = number + 1
        if form == 1 then
          local level, need, take = filled[place], limits[p + 3], limits[p + 4]
          if not level or level > limit then
            level = level_of(its, place, limit, now)
            filled[place] = level
          end
          if level < need or level <= 0 then
            wait = math.max(1, math.ceil((need - level) * 60000 / limit))
          end
          n = n + 1
          levels[n] = level
          if take > 0 then
            taken[t + 1], taken[t + 2], taken[t + 3], taken[t + 4], taken[t + 5] = its, place, take, n, key
            t = t + 5
          end
        elseif form == 2 then
          local periods = of_day[ARGV[a + 4]]
          if not periods then
            periods = periods_of(ARGV[a + 4], ARGV[a + 5])
            of_day[ARGV[a + 4]] = periods
          end
          local left, period = limit - its[1], periods[place]
          if its[place] >= period then
            left = left - its[place + 1]
          end
          if limits[p + 3] == 1 then
            left = left - carried(key, place, period)
          end
          if limits[p + 4] == 1 then
            n = n + 1
            levels[n] = left
          end
          if left < amount or left <= 0 then
            wait = math.huge
          elseif left < 10 * amount then
            short = 1
          end
          reserved = reserved or {}
          reserved[key] = its
        else
          local key_of_leases = KEYS[hash + 1]
          leases = leases or {}
          leases[key_of_leases] = now + limits[p + 3]
          local card = cards[key_of_leases] or redis.call('ZCARD', key_of_leases)
          if card >= limit then
            redis.call('ZREMRANGEBYSCORE', key_of_leases, '-inf', now)
            card = redis.call('ZCARD', key_of_leases) + (entering[key_of_leases] and #entering[key_of_leases] / 2 or 0)
            if card >= limit then
              wait = 0
            end
          end
          cards[key_of_leases] = card
        end
        if wait > longest then
          refusing, longest = number, wait
        end
        p = p + 5
      end
      hash = hash + 2
    end
    if held[id] and reservation ~= '' then -- the reply was lost, and it was asked again
      results[i] = {nil, levels, short}
    elseif refusing then
      local wait = (longest == 0 or longest == math.huge) and -1 or longest
      results[i] = {{2, refusing, wait, levels}}
    else
      for s = 1, t, 5 do
        local its, place = taken[s], taken[s + 1]
        local level = levels[taken[s + 3]] - taken[s + 2]
        its[place], its[place + 1], now_in[its][place] = level, now, level
        levels[taken[s + 3]], changed[taken[s + 4]] = level, its
      end
      if reserved then
        for key, its in pairs(reserved) do
          its[1] = its[1] + amount
          changed[key] = its
        end
      end
      if leases then
        for key_of_leases, expiry in pairs(leases) do
          put(entering, key_of_leases, expiry, id)
          cards[key_of_leases] = cards[key_of_leases] + 1
        end
      end
      if reservation ~= '' then
        put(noting, KEYS[k], id, reservation)
        held[id] = true
        if w then
          held[w] = cmsgpack.pack({id, NEVER})
          put(noting, KEYS[k], w, held[w])
        end
      end
      results[i] = {nil, levels, short}
    end
  end

  for key, those in pairs(noting) do
    redis.call('HSET', key, unpack(those))
  end
  for key, its in pairs(changed) do
    keep(key, its)
  end
  for key_of_leases, those in pairs(entering) do
    redis.call('ZADD', key_of_leases, unpack(those))
  end
  return results
end

