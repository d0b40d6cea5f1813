-- Leases tasks to a process that is about to send them, or says why it must not.
--
-- KEYS: 1 due, 2 want, 3 dlv, 4 gen, 5.. tenant hashes of the caller's generation
-- ARGV: 1 generation, 2 lease ms, then for each task: task, version its event was matched against, index into KEYS of
--       its tenant, tenant, event, by, destination, creation version, cached version of the destination ('' = none)
-- Returns for each task {answer, ...}: {'gone'} | {'leased'} | {'generation', active} | {'behind'} | {'cancelled'} |
--       {'skipped'} | {'begun', 1 if manual, the destination's field if the cached one is not current}
-- Invariant: at most one valid lease a task; nothing begins after a disable or delete is visible; a re-created
-- destination never receives its namesake's deliveries.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local active = redis.call('GET', KEYS[4]) or '1'
local function close(kind, task, tenant, event, by)
  redis.call('XADD', KEYS[3], '*', 't', kind, 'v', 1, 'ten', tenant, 'id', event, 'ref', task, 'by', by, 'd', '')
  redis.call('ZREM', KEYS[1], task)
  redis.call('HDEL', KEYS[2], task)
end
local function begin(task, matched, hash, tenant, event, by, destination, created, cached)
  local score = redis.call('ZSCORE', KEYS[1], task)
  if not score then return {'gone'} end
  if score % 1 == 0.5 and tonumber(score) > now then return {'leased'} end
  if active ~= ARGV[1] then return {'generation', active} end
  local key = KEYS[tonumber(hash)]
  local version, field = unpack(redis.call('HMGET', key, 'version', 'd:' .. destination))
  if tonumber(version or 0) < tonumber(matched) then return {'behind'} end
  local want = redis.call('HGET', KEYS[2], task)
  if want and string.find(want, 'c', 1, true) then
    close('delivery.cancelled', task, tenant, event, by)
    return {'cancelled'}
  end
  local made, changed, enabled = string.match(field or '', '^(%d+) (%d+) ([01]) ')
  if made ~= created or enabled ~= '1' then
    close('delivery.skipped', task, tenant, event, by)
    return {'skipped'}
  end
  if want and not string.find(want, 'm', 1, true) then
    redis.call('HSET', KEYS[2], task, 'm' .. string.sub(want, 2)) -- one request is this attempt, others follow it
  end
  redis.call('ZADD', KEYS[1], now + ARGV[2] + 0.5, task)
  return {'begun', want and 1 or 0, changed ~= cached and field or false}
end
local answers = {}
for at = 3, #ARGV, 9 do answers[#answers + 1] = begin(unpack(ARGV, at, at + 8)) end
return answers
