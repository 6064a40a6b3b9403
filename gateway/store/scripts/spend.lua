-- What one caller has used in one day, by model, for its own view; changes nothing.
--
-- KEYS[1]  aggregates of the day, as in ledger.lua
-- ARGV[1]  caller
-- returns  {model, its nine sums as a MessagePack array, ...}
local start = ARGV[1] .. '\0'
local models, sums = {}, {}
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  if string.sub(stored[i], 1, #start) == start then
    local rest = string.sub(stored[i], #start + 1)
    local model = string.sub(rest, 1, (string.find(rest, '\0', 1, true) or #rest + 1) - 1)
    local more = cmsgpack.unpack(stored[i + 1])
    local sum = sums[model]
    if sum then
      for n = 1, 9 do
        sum[n] = sum[n] + more[n]
      end
    else
      models[#models + 1], sums[model] = model, more
    end
  end
end
local found = {}
for _, model in ipairs(models) do
  found[#found + 1], found[#found + 2] = model, cmsgpack.pack(sums[model])
end
return found
