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
--          are, which of them is the team (0: none), the requests' ids as a MessagePack array, what they add up to or '';
--          for each subject the buckets to debit: '' (none), or a MessagePack array of each one's place, limit per minute
--          and four places among the sums (0: none) of what is taken; for each request which subject is its caller, and its
--          record; for each conversation the five of its renewal, from `model` on, as in renewal.lua
--
-- What they add up to is a MessagePack array that has which subject is the caller, the field and its nine sums, for each
-- field of the aggregates: it serves if none of the requests was settled, and saves reading every record.
--
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
local last = #ARGV - 5 * (#KEYS - before) -- of what the requests have

local function append(lists, s, item)
  local list = lists[s]
  if list then
    list[#list + 1] = item
  else
    lists[s] = {item}
  end
end

local function settle(statuses)
  local first, day, month = 8 + subjects, tonumber(ARGV[2]), tonumber(ARGV[3])
  local week = week_of(day)
  local ids = cmsgpack.unpack(ARGV[7])
  local n = #ids
  local held = redis.call('HMGET', KEYS[1], unpack(ids))
  local settled = redis.call('HMGET', KEYS[2], unpack(ids))
  local whole = ARGV[8] ~= '' and cmsgpack.unpack(ARGV[8])
  for i = 1, whole and n or 0 do
    if settled[i] then
      whole = false
      break
    end
  end
  local known, marks, fresh = {}, {}, 0 -- what is settled, by id
  local fields, sums, stream, returned = {}, {}, {}, {}
  local spent, released, used, leases = {}, {}, {}, {} -- by subject

  for g = 1, whole and #whole or 0, 3 do
    local caller, field, sum = whole[g], whole[g + 1], whole[g + 2]
    fields[#fields + 1], sums[field] = field, sum
    for s = caller, team > 0 and team or caller, team > 0 and team - caller or 1 do
      append(used, s, sum)
      spent[s] = (spent[s] or 0) + sum[8]
    end
  end
  for i = 1, n do
    local id, caller = ids[i], tonumber(ARGV[first + 2 * i - 1])
    local final, step = caller, 1 -- its subjects: the caller, then the team
    if team > 0 then
      final, step = team, team - caller
    end
    local earlier = known[id]
    if earlier == nil then
      earlier = settled[i]
    end
    if held[i] and known[id] == nil then
      local back = cmsgpack.unpack(held[i])
      returned[#returned + 1] = id
      if back[14] and back[14] ~= '' then -- another request of the conversation may reserve less now
        returned[#returned + 1] = back[14]
      end
      for _, s in ipairs(back[12]) do
        append(leases, s == 1 and caller or team, id)
      end
      for _, s in ipairs(back[13]) do
        s = s == 1 and caller or team
        released[s] = (released[s] or 0) + back[11]
      end
    else -- a lease may have been renewed after all
      for s = caller, final, step do
        append(leases, s, id)
      end
    end
    local record = not whole and cmsgpack.unpack(ARGV[first + 2 * i])
    local status, provisional = 1, record and record[10]
    if earlier then
      status = earlier == '' and 0 or provisional and 3 or 2
    end
    if whole then
      fresh, earlier = fresh + 1, ''
      marks[#marks + 1], marks[#marks + 2] = id, ''
      stream[i] = ARGV[first + 2 * i]
    elseif status == 1 or status == 2 then
      local cost = record[FIRST + 8]
      if status == 1 then
        fresh = fresh + 1
      else
        local gone = cmsgpack.unpack(earlier)
        add(fields, sums, gone[5] .. '\0' .. gone[7] .. '\0' .. gone[8], gone, FIRST, -1)
        cost = cost - gone[FIRST + 8]
      end
      earlier = provisional and ARGV[first + 2 * i] or ''
      marks[#marks + 1], marks[#marks + 2] = id, earlier
      for place = FIRST + 1, FIRST + 9 do
        if record[place] ~= 0 then
          add(fields, sums, record[5] .. '\0' .. record[7] .. '\0' .. record[8], record, FIRST, 1)
          stream[#stream + 1] = ARGV[first + 2 * i]
          for s = caller, final, step do
            append(used, s, record)
          end
          break
        end
      end
      for s = caller, final, step do
        spent[s] = (spent[s] or 0) + cost
      end
    end
    known[id], statuses[i] = earlier, status
  end

  local hour, hour_gone, hour_new, today, today_gone, today_new
  if fields[1] then
    hour, hour_gone, hour_new = added(KEYS[3], fields, sums)
    today, today_gone, today_new = added(KEYS[4], fields, sums)
  end
  local changed, begins, before_sums = {}, {}, whole and 0 or FIRST
  for s = 1, subjects do
    local amount, back, debits = spent[s] or 0, released[s] or 0, used[s] and ARGV[8 + s] or ''
    if amount ~= 0 or back ~= 0 or debits ~= '' then
      local numbers = numbers_of(KEYS[4 + 2 * s])
      local earlier = numbers[2]
      local any = spend(numbers, day, week, month, amount) or back ~= 0
      numbers[1] = numbers[1] - back
      if debits ~= '' then
        debits = cmsgpack.unpack(debits)
        for d = 1, #debits, 6 do
          local taken = 0
          for _, record in ipairs(used[s]) do
            for j = d + 2, d + 5 do
              if debits[j] > 0 then
                taken = taken + record[before_sums + debits[j]]
              end
            end
          end
          if taken ~= 0 then
            local place = debits[d]
            numbers[place] = level_of(numbers, place, debits[d + 1], now) - taken
            numbers[place + 1], any = now, true
          end
        end
      end
      if any then
        changed[s], begins[s] = numbers, earlier ~= day
      end
    end
  end

  if ARGV[4] ~= '0' then
    for i = 1, #stream do
      redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[4], '*', 'r', stream[i])
    end
  end
  for s = 1, subjects do
    if leases[s] then
      redis.call('ZREM', KEYS[5 + 2 * s], unpack(leases[s]))
    end
  end
  if returned[1] then
    redis.call('HDEL', KEYS[1], unpack(returned))
  end
  if marks[1] then
    redis.call('HSET', KEYS[2], unpack(marks))
    if fresh > 0 and redis.call('HLEN', KEYS[2]) == fresh then
      redis.call('PEXPIRE', KEYS[2], '259200000') -- 3 days
    end
  end
  if hour then
    write(KEYS[3], hour, hour_gone, hour_new, HOUR_FOR)
    write(KEYS[4], today, today_gone, today_new, DAY_FOR)
  end
  for s = 1, subjects do
    if changed[s] then
      keep(KEYS[4 + 2 * s], changed[s])
      if begins[s] then
        keep_for_long(KEYS[4 + 2 * s])
      end
    end
  end
end

local statuses, renewals = {}, {}
if subjects > 0 then
  settle(statuses)
end
for k = before + 1, #KEYS do
  local a = last + 1 + 5 * (k - before - 1)
  renewals[k - before] = renew(KEYS[k], ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], now)
end
return {statuses, renewals}
