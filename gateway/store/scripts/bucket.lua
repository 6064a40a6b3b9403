-- Put before scripts that read token buckets.

-- What a token bucket of `limit` a minute holds by now; `stored` is "level ms", false for a full one.
local function level_of(stored, limit, now)
  local level, at = string.match(stored or '', '^(%S+) (%d+)$')
  level = tonumber(level or limit)
  if at and now > tonumber(at) then
    level = level + (now - at) * limit / 60000
  end
  return level < limit and level or limit
end

