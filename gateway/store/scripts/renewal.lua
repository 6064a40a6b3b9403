-- Put before scripts that renew bindings, after record.lua.

-- The cache of the workspace that served a conversation is warm again.
--
-- `key` is that of the conversation, as in admit.lua. Where its binding for the model is `before` still, it is `after` now.
-- Else another request has renewed it or moved the conversation, and what this one tells is put to it: `packed` is a
-- MessagePack array of the workspace that served, the generation the request knew (0 = none), the workspace of that
-- binding, ms since the response began, cache lifetime (ms), tokens of the conversation (0 = not known yet), bytes of
-- the body, 1 if its history is bound to the account. The record of the binding lives for `lifetime` ms more; if that is
-- negative, it does already where the binding is `before` still: `before` says so (`kept_until`).
--
-- A binding that is gone (expired, or never written while the store was away) is created from what the process knows,
-- and so is one older than what it knows; a newer one belongs to a later decision and stays as it is, and one that was
-- flushed ('') stays so. Returns 1 if the binding was renewed or created, 0 if it was flushed or is of another generation.
local function renew(key, model, lifetime, before, after, packed, now)
  local stored = redis.call('HGET', key, model)
  if stored == '' then
    return 0
  end
  if stored == before then
    redis.call('HSET', key, model, after)
    if tonumber(lifetime) > 0 then
      redis.call('PEXPIRE', key, lifetime, 'GT')
    end
    return 1
  end
  lifetime = math.abs(tonumber(lifetime))
  local served, generation, workspace, age, ttl, tokens, size, bound = unpack(cmsgpack.unpack(packed))
  local b = read(stored)
  if b and generation > 0 and b[2] > generation then
    return 0
  end
  local known = b
  if not b or b[2] < generation then
    b = {workspace, math.max(1, generation), 0, 0, 0, 0, '', 0, 0, '', 0, 0, {}}
  end
  if b[15] then
    b[15] = 0
  end
  local warm = now - age + ttl
  if served == b[1] then
    b[3] = math.max(b[3], warm)
    if tokens ~= 0 then
      b[4], b[5] = tokens, size
    end
    if bound == 1 then
      b[6] = 1
    end
  elseif generation == 0 then
    return 0
  else
    b[10], b[11] = served, warm
  end
  redis.call('HSET', key, model, cmsgpack.pack(b))
  if known then
    redis.call('PEXPIRE', key, lifetime, 'GT')
  elseif redis.call('PTTL', key) < tonumber(lifetime) then
    redis.call('PEXPIRE', key, lifetime)
  end
  return 1
end

