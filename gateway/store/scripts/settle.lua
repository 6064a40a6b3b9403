-- Settle one request: the cache of the workspace that served its conversation is warm again, and what it used counts.
--
-- A binding that is gone (expired, flushed, or never written while the store was away) is created from what the
-- process knows, and so is one older than what it knows; a newer one belongs to a later decision and stays as it is.
--
-- KEYS     1 conversation, as in admit.lua; where there is a record, from 2 as in ledger.lua
-- ARGV     now (ms, 0 = this server's clock), model, workspace that served, generation the request knew (0 = none),
--          workspace of that binding, ms since the response began, cache lifetime (ms), tokens of the conversation
--          (0 = not known yet), bytes of the body, 1 if its history is bound to the account, lifetime of the binding's
--          record (ms); where there is a record of what was used, from 12 as in ledger.lua
-- returns  1 if the binding was renewed or created, 0 if it belongs to another generation; with a record, that and
--          what ledger.lua says
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local function renew()
  local packed = redis.call('HGET', KEYS[1], ARGV[2])
  local generation = tonumber(ARGV[4])
  local b = read(packed)
  if b and generation > 0 and b[2] > generation then
    return 0
  end
  if not b or b[2] < generation then
    b = {ARGV[5], math.max(1, generation), 0, 0, 0, 0, '', 0, 0, '', 0, 0, {}}
  end
  if b[15] then
    b[15] = 0
  end
  local warm = now - tonumber(ARGV[6]) + tonumber(ARGV[7])
  if ARGV[3] == b[1] then
    b[3] = math.max(b[3], warm)
    if ARGV[8] ~= '0' then
      b[4], b[5] = tonumber(ARGV[8]), tonumber(ARGV[9])
    end
    if ARGV[10] == '1' then
      b[6] = 1
    end
  elseif generation == 0 then
    return 0
  else
    b[10], b[11] = ARGV[3], warm
  end
  redis.call('HSET', KEYS[1], ARGV[2], cmsgpack.pack(b))
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[11]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[11])
  end
  return 1
end

if #KEYS == 1 then
  return renew()
end
local counted = count(now, 2, 12)
return {renew(), counted}
