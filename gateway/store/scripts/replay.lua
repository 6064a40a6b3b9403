-- Count what a journal has of one hour of a tenant: each request as ledger.lua counts one, but what they add up to is
-- written once.
--
-- KEYS     1 reservations, 2 settled ids of the hour, 3 aggregates of the hour and 4 of the day, 5 stream of records,
--          then buckets and money, and leases, of each subject: the callers, and last their team if they have one
-- ARGV     day, month, records that the stream keeps, which subject is the team ('': none), then for each request which
--          subject is its caller, and its record, as in ledger.lua
-- returns  for each request as `note`
local day, month, kept, team = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local statuses, sums, spent, released = {}, {}, {}, {}

local function add(record, subjects, sign)
  local field = field_of(record)
  local sum = sums[field] or {0, 0, 0, 0, 0, 0, 0, 0, 0}
  for i = 1, 9 do
    sum[i] = sum[i] + sign * record[FIRST + i]
  end
  sums[field] = sum
  for _, s in ipairs(subjects) do
    spent[s] = (spent[s] or 0) + sign * record[FIRST + 8]
  end
end

for a = 5, #ARGV, 2 do
  local packed = ARGV[a + 1]
  local record, subjects, leases = cmsgpack.unpack(packed), {tonumber(ARGV[a]), team}, {}
  for place, s in ipairs(subjects) do
    leases[place] = 5 + 2 * s
  end
  for place, amount in pairs(take_back(KEYS[1], record[2], leases)) do
    released[subjects[place] ] = (released[subjects[place] ] or 0) + amount
  end
  local status, estimate = note(KEYS[2], record, packed)
  statuses[#statuses + 1] = status
  if estimate then
    add(estimate, subjects, -1)
  end
  if (status == 1 or status == 2) and used(record) then
    add(record, subjects, 1)
    if kept ~= '0' then
      redis.call('XADD', KEYS[5], 'MAXLEN', '~', kept, '*', 'r', packed)
    end
  end
end
for field, sum in pairs(sums) do
  tally(KEYS[3], field, sum, 0, 1, 3024000000) -- 35 days
  tally(KEYS[4], field, sum, 0, 1, 34560000000) -- 400 days
end
for s = 1, (#KEYS - 5) / 2 do
  local amount, back = spent[s] or 0, released[s] or 0
  if amount ~= 0 or back ~= 0 then
    charge(KEYS[4 + 2 * s], day, month, amount, back)
  end
end
return statuses
