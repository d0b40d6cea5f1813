-- Leases tasks to a process that is about to send them, or says why it must not.
--
-- KEYS: 1 due, 2 want, 3 dlv, 4 gen, 5 ver, 6 manual, 7.. the tenant hashes of the caller's generation
-- ARGV: 1 generation, 2 lease ms, 3 by, then for each task: task, version its event was matched against, index into
--       KEYS of its tenant, tenant, event, destination, creation version, cached version of the destination ('' = none)
-- Returns for each task 'gone' | 'leased' | 'behind' | 'cancelled' | 'skipped' | {'generation', active} | 1 (begun, and
--       the cached version is current, and no attempt was manual) | {1 if manual, the destination's field if the cached
--       one is not current, manual attempts of the delivery before this one}
-- Invariant: at most one valid lease a task; nothing begins after a disable or delete is in the log; a re-created
-- destination never receives its namesake's deliveries.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local active = redis.call('GET', KEYS[4]) or '1'
local some = redis.call('EXISTS', KEYS[2], KEYS[6])
local wanted = some > 0 and redis.call('EXISTS', KEYS[2]) == 1
local counted = some > (wanted and 1 or 0)
local names, tenants, known, taken, leases, lease = {}, {}, {}, {}, {}, now + ARGV[2] + 0.5
local last
for at = 4, #ARGV, 8 do
  names[#names + 1] = ARGV[at]
  if ARGV[at + 2] ~= last then tenants[ARGV[at + 2] - 6], last = ARGV[at + 3], ARGV[at + 2] end
end
local scores = #names > 0 and redis.call('ZMSCORE', KEYS[1], unpack(names)) or {}
local versions = #names > 0 and redis.call('HMGET', KEYS[5], unpack(tenants)) or {}
local function close(kind, at)
  redis.call('XADD', KEYS[3], '*', 't', kind, 'v', 1, 'ten', ARGV[at + 3], 'id', ARGV[at + 4], 'ref', ARGV[at],
    'by', ARGV[3], 'd', '')
  redis.call('ZREM', KEYS[1], ARGV[at])
  redis.call('HDEL', KEYS[2], ARGV[at])
  if counted then redis.call('HDEL', KEYS[6], string.match(ARGV[at], '/.*$')) end
  taken[ARGV[at]] = 'gone'
end
local function destination(hash, id)
  local name = hash .. ' ' .. id
  if not known[name] then
    local version, field = unpack(redis.call('HMGET', KEYS[tonumber(hash)], 'version', 'd:' .. id))
    local made, changed, enabled = string.match(field or '', '^(%d+) (%d+) ([01]) ')
    version = tonumber(version or 0)
    if version < tonumber(versions[hash - 6] or 0) then version = -1 end -- behind every event
    known[name] = {version, field, made, changed, enabled}
  end
  return unpack(known[name], 1, 5)
end
local function begin(at, score)
  local task, matched, hash = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if taken[task] then return taken[task] end
  if not score then return 'gone' end
  if score % 1 == 0.5 and tonumber(score) > now then return 'leased' end
  if active ~= ARGV[1] then return {'generation', active} end
  local version, field, made, changed, enabled = destination(hash, ARGV[at + 5])
  if version < tonumber(matched) then return 'behind' end
  local want = wanted and redis.call('HGET', KEYS[2], task)
  if want and string.find(want, 'c', 1, true) then return 'cancelled', close('delivery.cancelled', at) end
  if made ~= ARGV[at + 6] or enabled ~= '1' then return 'skipped', close('delivery.skipped', at) end
  if want and not string.find(want, 'm', 1, true) then
    redis.call('HSET', KEYS[2], task, 'm' .. string.sub(want, 2)) -- one request is this attempt, others follow it
  end
  taken[task], leases[#leases + 1], leases[#leases + 2] = 'leased', lease, task
  local current = changed == ARGV[at + 7]
  local before = counted and redis.call('HGET', KEYS[6], string.match(task, '/.*$')) or 0
  return (current and not want and before == 0) and 1 or {want and 1 or 0, not current and field, tonumber(before)}
end
local answers = {}
for i, score in ipairs(scores) do answers[i] = begin(i * 8 - 4, score) end
if #leases > 0 then redis.call('ZADD', KEYS[1], unpack(leases)) end
return answers
