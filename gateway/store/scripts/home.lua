-- Choose the workspace on which a share group creates objects, unless somebody has chosen another since; or only ask.
--
-- KEYS[1]  homes of the group (MessagePack array of workspaces: the present one, then former ones)
-- ARGV     present home as it was read ('' for none), proposed home ('' only reads), workspaces that were a home once
--          ... (each is put at the end, where it is missing; for a store that has lost its data)
-- returns  the homes as they now stand; false where there are none
local stored = redis.call('GET', KEYS[1])
if ARGV[2] == '' then
  return stored
end
local read, homes = pcall(cmsgpack.unpack, stored or '')
if not stored or not read or type(homes) ~= 'table' then
  homes = {}
end
local before = #homes
local changed = (before == 0 or homes[1] == ARGV[1]) and homes[1] ~= ARGV[2]
if changed then
  for i = before, 1, -1 do
    if homes[i] == ARGV[2] then
      table.remove(homes, i)
    end
  end
  table.insert(homes, 1, ARGV[2])
end
local known = {}
for _, workspace in ipairs(homes) do
  known[workspace] = true
end
for i = 3, #ARGV do
  if not known[ARGV[i]] then
    known[ARGV[i]], changed = true, true
    table.insert(homes, ARGV[i])
  end
end
if changed then
  stored = cmsgpack.pack(homes)
  redis.call('SET', KEYS[1], stored)
end
return stored
