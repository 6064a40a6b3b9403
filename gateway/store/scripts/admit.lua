-- Admit requests: reserve what the limits of each ask, then read the binding of its conversation for this model, or create
-- it as proposed. One that a limit refuses changes nothing.
--
-- KEYS     for each request: its conversation (hash: model -> binding, a MessagePack array as in core/routing/binding.py);
--          where there is a reservation, from the next one as in quota.lua
-- ARGV     now (ms, 0 = this server's clock); for each request: how many keys it has, and how many arguments after these
--          two; model, proposed binding, its generation (a newer one than the stored one's comes from before the store lost
--          its data, and wins), lifetime of the record (ms), ms for which a conversation that is cold counts as in flight
--          from now on (0: do not look, it should be warm); where there is a reservation, from the next one as in quota.lua
-- returns  for each request {1 if created, binding as it was found, now}, the levels and 1 if money is short if there is a
--          reservation; {2, row, ms, levels} if a limit refuses, as in quota.lua
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local function bind(key, a, bound)
  local model, proposed, generation, lifetime, in_flight = unpack(ARGV, a, a + 4)
  if bound and bound ~= '' then
    local known = generation == '1'
    if not known then
      local ok, b = pcall(cmsgpack.unpack, bound)
      known = ok and type(b) == 'table' and type(b[2]) == 'number' and b[2] >= tonumber(generation)
    end
    if known then
      local after
      if in_flight ~= '0' then
        local b = read(bound)
        if b and b[3] <= now and (b[15] or 0) <= now then
          b[14], b[15], b[16] = b[14] or '', now + tonumber(in_flight), b[16] or 0
          after = cmsgpack.pack(b)
          redis.call('HSET', key, model, after)
        end
      end
      return 0, bound, after
    end
  elseif redis.call('HLEN', key) >= 64 then
    redis.call('DEL', key) -- nobody talks to so many models: names of somebody's invention
  end
  redis.call('HSET', key, model, proposed)
  if redis.call('PTTL', key) < tonumber(lifetime) then
    redis.call('PEXPIRE', key, lifetime)
  end
  return 1, proposed, proposed
end

local firsts, asks, bounds, k, a = {}, {}, {}, 1, 2
while a <= #ARGV do
  local keys, arguments = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  firsts[#firsts + 1], firsts[#firsts + 2] = k, a + 2
  bounds[#bounds + 1] = redis.call('HGET', KEYS[k], ARGV[a + 2])
  if keys > 1 then
    asks[#asks + 1] = {k = k + 1, a = a + 7, w = arguments > 11 and KEYS[k] or nil}
  end
  k, a = k + keys, a + 2 + arguments
end
local results = asks[1] and reserve(now, asks)
local replies, changed, r = {}, nil, 0
for i = 1, #bounds do
  k, a = firsts[2 * i - 1], firsts[2 * i]
  local levels, short
  if ARGV[a - 2] ~= '1' then
    r = r + 1
    replies[i], levels, short = unpack(results[r], 1, 3)
  end
  if not replies[i] then
    local place, bound = KEYS[k] .. '\0' .. ARGV[a], bounds[i]
    if changed then
      bound = changed[place] or bound
    end
    local created, found, after = bind(KEYS[k], a, bound)
    if after then
      changed = changed or {}
      changed[place] = after
    end
    replies[i] = {created, found, now, levels, short}
  end
end
return replies
