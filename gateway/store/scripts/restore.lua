-- Give back to a tenant what one journal had counted in some hours of one day, for a store that has lost it. Once for
-- each hour; an hour that is marked has lost nothing.
--
-- KEYS     1 marks (hash: journal and hour -> ''), 2 aggregates of the day, then the aggregates of each hour, then the
--          hashes of money that the rows name
-- ARGV     day, month, then for each hour its mark and its rows: a MessagePack array of {field of the aggregates,
--          {which keys are charged, ...}, the nine sums}, as in ledger.lua
-- returns  which of the hours were not marked (1 is the first)
local new, spent = {}, {}
for h = 1, #ARGV / 2 - 1 do
  if redis.call('HSETNX', KEYS[1], ARGV[1 + 2 * h], '') == 1 then
    new[#new + 1] = h
    for _, row in ipairs(cmsgpack.unpack(ARGV[2 + 2 * h])) do
      tally(KEYS[2 + h], row[1], row, 2, 1, 3024000000) -- 35 days
      tally(KEYS[2], row[1], row, 2, 1, 34560000000) -- 400 days
      for _, key in ipairs(row[2]) do
        spent[key] = (spent[key] or 0) + row[10]
      end
    end
  end
end
for key, amount in pairs(spent) do
  charge(KEYS[key], ARGV[1], ARGV[2], amount, 0)
end
if new[1] then
  redis.call('PEXPIRE', KEYS[1], 3110400000, 'NX') -- 36 days
end
return new
