-- What was made at run time: read it, or change one thing about it and tell the others.
--
-- KEYS     1 callers, 2 keys, 3 version of all (string, another one after every change), 4 schema version (string), 5 teams,
--          6 boosts; each kind is a hash id -> JSON as core/spending/keyring.py has it, a key's flat. All but keys are
--          records, which have a revision
-- ARGV     now (ms, 0 = this server's clock), schema version of the caller, channel, a word never used before, what to
--          do, and its own arguments, below
-- returns  {schema version in force, outcome, more ...}; every outcome but `same`, `table` and `done` changed nothing
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local schema = tonumber(redis.call('GET', KEYS[4]) or 0)
if schema > tonumber(ARGV[2]) then
  return {schema, 'newer'}
end
local changed = false

local function read(id)
  local ok, key = pcall(cjson.decode, redis.call('HGET', KEYS[2], id) or '')
  if ok and type(key) == 'table' and type(key.revoked_at) == 'number' and type(key.expires_at) == 'number' then
    return key
  end
end

local function write(id, key)
  redis.call('HSET', KEYS[2], id, cjson.encode(key))
  changed = true
end

-- Of a record, and whether that says that it was deleted; 0 for one that cannot be read.
local function revision_of(text)
  local ok, record = pcall(cjson.decode, text)
  if not ok or type(record) ~= 'table' then
    return 0, false
  end
  return type(record.revision) == 'number' and record.revision or 1, record.deleted_at ~= nil
end

-- The earlier of two times, 0 being never.
local function sooner(a, b)
  if a == 0 or b == 0 then
    return math.max(a, b)
  end
  return math.min(a, b)
end

local function begin(key, lifetime)
  key.created_at, key.revoked_at, key.lifetime = now, 0, lifetime
  key.expires_at = lifetime > 0 and now + lifetime or 0
  return key
end

-- Whether a key counts now.
local function counts(key)
  return key.revoked_at == 0 and (key.expires_at == 0 or key.expires_at > now)
end

-- The ids of the caller's keys that count now.
local function counting(caller)
  local found = {}
  for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do
    local key = read(id)
    if key and key.caller == caller and counts(key) then
      found[#found + 1] = id
    end
  end
  return found
end

-- What has become of a key: it is another one after each change.
local function state_of(key)
  return string.format('%.0f.%.0f.%s', key.revoked_at, key.expires_at, key.replaced_by or '')
end

local act = {}

-- The version that is known ('' for none) -> `same`, or `table`, version, {id, caller, ...}, {id, key, ...}, and so on of
-- teams and boosts.
function act.read(known)
  local version = redis.call('GET', KEYS[3]) or ''
  if version ~= '' and version == known then
    return {'same'}
  end
  local found = {'table', version}
  for _, place in ipairs({1, 2, 5, 6}) do
    found[#found + 1] = redis.call('HGETALL', KEYS[place])
  end
  return found
end

-- Key id, key without times, lifetime (ms, 0 = for ever), caller, its record ('' where a file defines it), '1' if the
-- record may be there already, how many keys of the caller may count (0: any number) -> `done`, `taken` for another key
-- of this id, `known` with the record that is there, `named` with the id of a key of the caller that has its label and
-- counts, or `full`. The same key made again is done. A caller that was deleted is made anew by the record that follows.
function act.create(id, text, lifetime, caller, record, known, most)
  local key, present = cjson.decode(text), read(id)
  if present or redis.call('HEXISTS', KEYS[2], id) == 1 then
    return {present and present.digest == key.digest and 'done' or 'taken'}
  end
  if key.label ~= '' or most ~= '0' then
    local others = counting(caller)
    for _, each in ipairs(others) do
      local other = read(each)
      if key.label ~= '' and other.label == key.label and (other.replaced_by or '') == '' then
        return {'named', each}
      end
    end
    if most ~= '0' and #others >= tonumber(most) then
      return {'full'}
    end
  end
  if record ~= '' then
    local there = redis.call('HGET', KEYS[1], caller)
    local revision, deleted = 0, false
    if there then
      revision, deleted = revision_of(there)
    end
    local anew = not there or (deleted and revision_of(record) == revision + 1)
    if not anew and (deleted or known ~= '1') then
      return {'known', there}
    end
    if anew then
      redis.call('HSET', KEYS[1], caller, record)
    end
  end
  write(id, begin(key, tonumber(lifetime)))
  return {'done'}
end

-- Which of the KEYS has the kind, id, its new record, the revision that this one follows (0: there is none) -> `done`,
-- `unknown`, or `known` with the record that is there instead. The same record again is done.
function act.put(place, id, record, revision)
  local there = redis.call('HGET', KEYS[tonumber(place)], id)
  if there == record then
    return {'done'}
  elseif not there and revision ~= '0' then
    return {'unknown'}
  elseif there and revision_of(there) ~= tonumber(revision) then
    return {'known', there}
  end
  redis.call('HSET', KEYS[tonumber(place)], id, record)
  changed = true
  return {'done'}
end

-- Key id, id of its successor, the successor's digest and hint, ms for which both count, the successor's lifetime (ms,
-- 0 = for ever, '' = as long as the key's), its state as it is known ('' any), how many keys of the caller may count
-- besides the successor (0: any number) -> `done`, `unknown`, `ended`, `taken`, `other` for one of another state, `named`
-- with the id of a successor that it has and that counts, or `full`. The same successor is done.
function act.rotate(id, new, digest, hint, overlap, lifetime, state, most)
  local key, present = read(id), read(new)
  if present or redis.call('HEXISTS', KEYS[2], new) == 1 then
    return {present and present.digest == digest and 'done' or 'taken'}
  elseif not key then
    return {'unknown'}
  elseif not counts(key) then
    return {'ended'}
  elseif state ~= '' and state ~= state_of(key) then
    return {'other'}
  end
  local earlier = (key.replaced_by or '') ~= '' and read(key.replaced_by)
  if earlier and counts(earlier) then
    return {'named', key.replaced_by}
  elseif most ~= '0' and #counting(key.caller) > tonumber(most) then
    return {'full'}
  end
  local heir = {
    caller = key.caller, digest = digest, hint = hint, of_file = key.of_file, replaced_by = '', label = key.label or '',
  }
  write(new, begin(heir, tonumber(lifetime) or key.lifetime))
  key.expires_at, key.replaced_by = sooner(key.expires_at, now + tonumber(overlap)), new
  write(id, key)
  return {'done'}
end

-- Key id, its state as it is known ('' any) -> `done`, `unknown`, or `other` for one of another state.
function act.revoke(id, state)
  local key = read(id)
  if not key then
    return {'unknown'}
  elseif state ~= '' and state ~= state_of(key) then
    return {'other'}
  end
  if key.revoked_at == 0 then
    key.revoked_at = now
    write(id, key)
  end
  return {'done'}
end

-- Caller, its record as one that is deleted ('' to keep it), the revision that this one follows, or that the kept one must
-- have (0: any) -> `done` and how many keys this has ended, `unknown`, or `known` with the record that is there instead.
function act.finish(caller, record, revision)
  local there = redis.call('HGET', KEYS[1], caller)
  if record ~= '' then
    if not there then
      return {'unknown'}
    elseif there ~= record and revision_of(there) ~= tonumber(revision) then
      return {'known', there}
    end
    redis.call('HSET', KEYS[1], caller, record)
    changed = true
  elseif there and revision ~= '0' and revision_of(there) ~= tonumber(revision) then
    return {'known', there}
  end
  local ended = 0
  for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do
    local key = read(id)
    if key and key.caller == caller and counts(key) then
      key.revoked_at = now
      write(id, key)
      ended = ended + 1
    end
  end
  return {'done', ended}
end

-- How many records, of each which of the KEYS has its kind, id and record, then {id, key} of keys: what this store has
-- lost -> `done`. Of a record that is here the later one stays; a key that is here ends when the first of both said.
function act.offer(records, ...)
  local given, keys = {...}, 3 * tonumber(records)
  for i = 1, keys, 3 do
    local kind = tonumber(given[i])
    local there = redis.call('HGET', KEYS[kind], given[i + 1])
    if not there or revision_of(there) < revision_of(given[i + 2]) then
      redis.call('HSET', KEYS[kind], given[i + 1], given[i + 2])
      changed = true
    end
  end
  for i = keys + 1, #given, 2 do
    if redis.call('HSETNX', KEYS[2], given[i], given[i + 1]) == 1 then
      changed = true
    else
      local key, other = read(given[i]), cjson.decode(given[i + 1])
      if key and key.digest == other.digest then
        local revoked, expires = sooner(key.revoked_at, other.revoked_at), sooner(key.expires_at, other.expires_at)
        if revoked ~= key.revoked_at or expires ~= key.expires_at then
          key.revoked_at, key.expires_at = revoked, expires
          write(given[i], key)
        end
      end
    end
  end
  return {'done'}
end

-- Ids of keys that ended long ago: they are not shown any more -> `done`.
function act.forget(...)
  for _, id in ipairs({...}) do
    changed = redis.call('HDEL', KEYS[2], id) == 1 or changed
  end
  return {'done'}
end

local reply = act[ARGV[5]](unpack(ARGV, 6))
if changed then
  local number = tonumber(string.match(redis.call('GET', KEYS[3]) or '', '^%d+') or 0) + 1
  redis.call('SET', KEYS[3], number .. '-' .. ARGV[4])
  redis.call('PUBLISH', ARGV[3], 'keys')
end
table.insert(reply, 1, schema)
return reply
