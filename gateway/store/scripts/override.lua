-- Merge new values into an operator's override of one account, and tell the others.
--
-- KEYS     1 overrides (hash account -> JSON object), 2 schema version (string)
-- ARGV     account, new values (JSON object; null removes one; '' removes all), channel, schema version of the caller
-- returns  {schema version in force, the override as it now stands (JSON) or false}
local schema = tonumber(redis.call('GET', KEYS[2]) or 0)
if schema > tonumber(ARGV[4]) then
  return {schema, false}
end
local merged = {}
if ARGV[2] ~= '' then
  local read, present = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1]) or '{}')
  if read and type(present) == 'table' and #present == 0 then
    merged = present
  end
  for field, value in pairs(cjson.decode(ARGV[2])) do
    if value == cjson.null then
      merged[field] = nil
    else
      merged[field] = value
    end
  end
end
local text = false
if next(merged) == nil then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  text = cjson.encode(merged)
  redis.call('HSET', KEYS[1], ARGV[1], text)
end
redis.call('PUBLISH', ARGV[3], 'override')
return {tonumber(ARGV[4]), text}
