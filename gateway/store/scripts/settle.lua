-- Settle requests of one tenant that arrived in one hour: what each has used counts, once for each id, what it had reserved
-- is given back, and the bindings of their conversations are renewed. What they add up to is written once. An estimate
-- gives way to what is known later.
--
-- Everything that is counted is read before anything is written: of requests that cannot be counted none is.
--
-- KEYS     1 reservations, 2 settled ids of the hour, 3 aggregates of the hour and 4 of the day, 5 stream of records, then
--          for each subject (callers, and last their team) its buckets and money, and its leases; none of all these
--          without a subject; then conversations
-- ARGV     now (ms, 0 = this server's clock), day, month, records that the stream keeps (0: none), how many subjects there
--          are, which of them is the team (0: none), for each subject the buckets to debit ('': none, or as in
--          ledger.lua), for each request which subject is its caller, and its record, for each conversation its renewal as
--          in renewal.lua
-- returns  for each request 1 if it was not settled, 2 if an estimate gave way to it, 0 if it was settled, 3 if it is an
--          estimate and was settled; and for each conversation what renewal.lua says
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local FIRST = 10 -- the place before a record's sums
local subjects, team = tonumber(ARGV[5]), tonumber(ARGV[6])
local before = subjects > 0 and 5 + 2 * subjects or 0 -- the conversations
local last = #ARGV - #KEYS + before -- of what the requests have

local statuses = {}

local function settle()
  local first = 6 + subjects
  local day, month, kept = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
  local ids, records = {}, {}
  for a = first + 2, last, 2 do
    local record = cmsgpack.unpack(ARGV[a])
    records[#records + 1], ids[#ids + 1] = record, record[2]
  end
  local held = redis.call('HMGET', KEYS[1], unpack(ids))
  local settled = redis.call('HMGET', KEYS[2], unpack(ids))
  local known, marks, fresh = {}, {}, 0 -- what is settled, by id
  local sums, stream, returned = {}, {}, {}
  local spent, released, used, leases = {}, {}, {}, {} -- by subject
  for s = 1, subjects do
    spent[s], released[s], leases[s] = 0, 0, {}
  end

  local function count(record, caller, sign)
    add(sums, record[5] .. '\0' .. record[7] .. '\0' .. record[8], record, FIRST, sign)
    local cost = sign * record[FIRST + 8]
    spent[caller] = spent[caller] + cost
    if team > 0 then
      spent[team] = spent[team] + cost
    end
  end

  local function note(s, record)
    used[s] = used[s] or {}
    used[s][#used[s] + 1] = record
  end

  for i, record in ipairs(records) do
    local id, packed, caller = ids[i], ARGV[first + 2 * i], tonumber(ARGV[first + 2 * i - 1])
    if held[i] and known[id] == nil then
      local back = cmsgpack.unpack(held[i])
      returned[#returned + 1] = id
      for _, s in ipairs(back[12]) do
        s = s == 1 and caller or team
        leases[s][#leases[s] + 1] = id
      end
      for _, s in ipairs(back[13]) do
        s = s == 1 and caller or team
        released[s] = released[s] + back[11]
      end
    else -- a lease may have been renewed after all
      leases[caller][#leases[caller] + 1] = id
      if team > 0 then
        leases[team][#leases[team] + 1] = id
      end
    end
    local status, provisional, earlier = 1, record[10], known[id]
    if earlier == nil then
      earlier = settled[i]
    end
    if earlier then
      status = earlier == '' and 0 or provisional and 3 or 2
    end
    if status == 1 or status == 2 then
      if status == 1 then
        fresh = fresh + 1
      else
        count(cmsgpack.unpack(earlier), caller, -1)
      end
      earlier = provisional and packed or ''
      marks[#marks + 1], marks[#marks + 2] = id, earlier
      local any = false
      for n = FIRST + 1, FIRST + 9 do
        any = any or record[n] ~= 0
      end
      if any then
        count(record, caller, 1)
        note(caller, record)
        if team > 0 then
          note(team, record)
        end
        stream[#stream + 1] = packed
      end
    end
    known[id], statuses[i] = earlier, status
  end

  local hour, today
  if sums[1] then
    hour, today = added(KEYS[3], sums), added(KEYS[4], sums)
  end
  local numbers, begins = {}, {}
  for s = 1, subjects do
    if spent[s] ~= 0 or released[s] ~= 0 or (used[s] and ARGV[6 + s] ~= '') then
      local debits = used[s] and ARGV[6 + s] ~= '' and cmsgpack.unpack(ARGV[6 + s])
      numbers[s], begins[s] =
        charged(KEYS[4 + 2 * s], day, month, spent[s], released[s], debits, used[s], FIRST, now)
    end
  end

  if kept ~= '0' then
    for _, packed in ipairs(stream) do
      redis.call('XADD', KEYS[5], 'MAXLEN', '~', kept, '*', 'r', packed)
    end
  end
  for s = 1, subjects do
    if leases[s][1] then
      redis.call('ZREM', KEYS[5 + 2 * s], unpack(leases[s]))
    end
  end
  if returned[1] then
    redis.call('HDEL', KEYS[1], unpack(returned))
  end
  if marks[1] then
    redis.call('HSET', KEYS[2], unpack(marks))
    if fresh > 0 and redis.call('HLEN', KEYS[2]) == fresh then
      redis.call('PEXPIRE', KEYS[2], 259200000) -- 3 days
    end
  end
  if hour then
    write(KEYS[3], hour, HOUR_FOR)
    write(KEYS[4], today, DAY_FOR)
  end
  for s, its in pairs(numbers) do
    charge(KEYS[4 + 2 * s], its, begins[s])
  end
end

if subjects > 0 then
  settle()
end
local renewals = {}
for k = before + 1, #KEYS do
  renewals[k - before] = renew(KEYS[k], ARGV[last + k - before], now)
end
return {statuses, renewals}
