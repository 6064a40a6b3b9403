-- Choose the workspace on which a share group creates objects, unless somebody has chosen another since; or only ask.
--
-- KEYS[1]  homes of the group (MessagePack: [when the present one was chosen (Unix ms), [the present one, former ones]])
-- ARGV     present home as it was read ('' for none), proposed home ('' only reads), when it was chosen (Unix ms),
--          workspaces that were a home once ... (each is put at the end, where it is missing). Those come from who
--          remembers, for a store that has lost its data: then the later choice counts, whoever tells it first.
-- returns  the homes as they now stand; false where there are none
local stored = redis.call('GET', KEYS[1])
local read, value = pcall(cmsgpack.unpack, stored or '')
if read and type(value) == 'table' and type(value[1]) == 'string' then -- as it was once written: the workspaces alone
  value = { 0, value }
  stored = cmsgpack.pack(value)
end
if not stored or not read or type(value) ~= 'table' or type(value[1]) ~= 'number' or type(value[2]) ~= 'table' then
  stored, value = false, { 0, {} }
end
if ARGV[2] == '' then
  return stored
end
local chosen, homes = value[1], value[2]
local at, remembered = tonumber(ARGV[3]), #ARGV > 3
local changed = false
if #homes == 0 or (remembered and at > chosen) or (not remembered and homes[1] == ARGV[1] and homes[1] ~= ARGV[2]) then
  changed = true
  for i = #homes, 1, -1 do
    if homes[i] == ARGV[2] then
      table.remove(homes, i)
    end
  end
  table.insert(homes, 1, ARGV[2])
  chosen = math.max(at, chosen + 1) -- clocks differ
end
local known = {}
for _, workspace in ipairs(homes) do
  known[workspace] = true
end
for i = 4, #ARGV do
  if not known[ARGV[i]] then
    known[ARGV[i]], changed = true, true
    table.insert(homes, ARGV[i])
  end
end
if changed then
  stored = cmsgpack.pack({ chosen, homes })
  redis.call('SET', KEYS[1], stored)
end
return stored
