-- Put before scripts that count what was used.
--
-- A record is a MessagePack array as in store/ledger/ledger.py: its nine sums (requests, estimated, input, cache_read,
-- write_5m, write_1h, output, cost_nano, savings_nano) are those of the aggregates, in which each field (caller, model
-- and account with zero bytes between them) holds a MessagePack array of them.

-- Add `sign` times the nine sums after place `first` of `record` to one aggregate; what is zero altogether goes.
local function tally(key, field, record, first, sign, lifetime)
  local packed = redis.call('HGET', key, field)
  local sums = packed and cmsgpack.unpack(packed) or {0, 0, 0, 0, 0, 0, 0, 0, 0}
  local any = false
  for i = 1, 9 do
    sums[i] = sums[i] + sign * record[first + i]
    any = any or sums[i] ~= 0
  end
  if not any then
    redis.call('HDEL', key, field)
    return
  end
  redis.call('HSET', key, field, cmsgpack.pack(sums))
  if not packed then
    redis.call('PEXPIRE', key, lifetime, 'NX')
  end
end

-- Add `amount` to what a subject has spent in `day` and in `month`, unless a later one has begun; take `released` off
-- what it has reserved; and take from the buckets that begin at place `p` of `debits`, if there are any.
local function charge(key, day, month, amount, released, debits, p, record, first, now)
  local stored, set, n
  local fields = debits and debits[p] or 0
  if fields > 0 then
    stored = redis.call('HMGET', key, 'day', 'day_spent', 'month', 'month_spent', 'reserved',
      unpack(debits, p + 1, p + fields))
  else
    stored = redis.call('HMGET', key, 'day', 'day_spent', 'month', 'month_spent', 'reserved')
  end
  set, n = {}, 0
  if released ~= 0 then
    set[1], set[2], n = 'reserved', stored[5] - released, 2
  end
  if amount ~= 0 then
    local present = stored[1] or ''
    if present == day then
      set[n + 1], set[n + 2], n = 'day_spent', stored[2] + amount, n + 2
    elseif present < day then
      set[n + 1], set[n + 2], set[n + 3], set[n + 4], n = 'day_spent', amount, 'day', day, n + 4
    end
    present = stored[3] or ''
    if present == month then
      set[n + 1], set[n + 2], n = 'month_spent', stored[4] + amount, n + 2
    elseif present < month then
      set[n + 1], set[n + 2], set[n + 3], set[n + 4], n = 'month_spent', amount, 'month', month, n + 4
    end
  end
  for i = 1, fields do
    local at = p + fields + 1 + 5 * (i - 1) -- its limit, then the places of what it is debited
    local taken = 0
    for j = at + 1, at + 4 do
      if debits[j] > 0 then
        taken = taken + record[first + debits[j] ]
      end
    end
    if taken ~= 0 then
      set[n + 1], set[n + 2], n = debits[p + i], level_of(stored[5 + i], debits[at], now) - taken .. ' ' .. now, n + 2
    end
  end
  if n > 0 then
    redis.call('HSET', key, unpack(set))
    if stored[1] ~= day then
      redis.call('PEXPIRE', key, 3456000000) -- 40 days, in which its month ends
    end
  end
end

-- Take back what a request had reserved. `leases` are the KEYS of those of its subjects; the money that each had
-- reserved is returned in the same order.
local function take_back(key, id, leases)
  local held, released = redis.call('HGET', key, id), {}
  if held then
    held = cmsgpack.unpack(held)
    redis.call('HDEL', key, id)
    for _, s in ipairs(held[12]) do
      redis.call('ZREM', KEYS[leases[s] ], id)
    end
    for _, s in ipairs(held[13]) do
      released[s] = held[11]
    end
  else -- a lease may have been renewed after all
    for _, k in ipairs(leases) do
      redis.call('ZREM', KEYS[k], id)
    end
  end
  return released
end

-- Note that a request is settled, once for each id; an estimate gives way to what is known later.
--
-- returns  1 if it was not settled, 2 and the estimate that gave way, 0 if it was settled, 3 if it is an estimate and
--          was settled
local function note(key, record, packed)
  local id, provisional = record[2], record[10]
  if redis.call('HSETNX', key, id, provisional and packed or '') == 1 then
    if redis.call('HLEN', key) == 1 then
      redis.call('PEXPIRE', key, 259200000) -- 3 days
    end
    return 1
  end
  local earlier = redis.call('HGET', key, id)
  if earlier == '' then
    return 0
  elseif provisional then
    return 3
  end
  redis.call('HSET', key, id, '')
  return 2, cmsgpack.unpack(earlier)
end

local FIRST = 10 -- the place before a record's sums

-- The field of the aggregates that counts a record.
local function field_of(record)
  return record[5] .. '\0' .. record[7] .. '\0' .. record[8]
end

-- Whether there is anything to count.
local function used(record)
  for i = FIRST + 1, FIRST + 9 do
    if record[i] ~= 0 then
      return true
    end
  end
  return false
end

-- Count one request, once for each id, and give back what was reserved for it. An estimate gives way to what is known
-- later.
--
-- KEYS     from `k`: reservations, settled ids of the hour, aggregates of the hour and of the day, stream of records,
--          then for each subject (the caller, its team) its buckets and money, and its leases
-- ARGV     from `a`: record, day, month, records that the stream keeps (0: none), buckets to debit: '', or a
--          MessagePack array that has for each subject the number of fields, the fields, and of each its limit per
--          minute and the four places among the sums (0: none) of what is taken
-- returns  as `note`
local function count(now, k, a)
  local record, day, month = cmsgpack.unpack(ARGV[a]), ARGV[a + 1], ARGV[a + 2]
  local leases = {}
  for i = k + 6, #KEYS, 2 do
    leases[#leases + 1] = i
  end
  local released, amount, debits = take_back(KEYS[k], record[2], leases), 0, nil
  local status, estimate = note(KEYS[k + 1], record, ARGV[a])
  if estimate then
    amount = -estimate[FIRST + 8]
    tally(KEYS[k + 2], field_of(estimate), estimate, FIRST, -1, 0)
    tally(KEYS[k + 3], field_of(estimate), estimate, FIRST, -1, 0)
  end
  if (status == 1 or status == 2) and used(record) then
    tally(KEYS[k + 2], field_of(record), record, FIRST, 1, 3024000000) -- 35 days
    tally(KEYS[k + 3], field_of(record), record, FIRST, 1, 34560000000) -- 400 days
    amount = amount + record[FIRST + 8]
    debits = ARGV[a + 4] ~= '' and cmsgpack.unpack(ARGV[a + 4])
    if ARGV[a + 3] ~= '0' then
      redis.call('XADD', KEYS[k + 4], 'MAXLEN', '~', ARGV[a + 3], '*', 'r', ARGV[a])
    end
  end
  local p = 1
  for s = 1, (#KEYS - k - 4) / 2 do
    if amount ~= 0 or released[s] or debits then
      charge(KEYS[k + 3 + 2 * s], day, month, amount, released[s] or 0, debits, p, record, FIRST, now)
    end
    p = debits and p + 1 + 6 * debits[p] or 1
  end
  return status
end

