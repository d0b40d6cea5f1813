-- Records attempts, closes their tasks and makes the next attempt, in one step.
--
-- KEYS: 1 due, 2 want, 3 dlv, 4 manual
-- ARGV: 1 by, then for each attempt: task, tenant, event, 1 if it succeeded, ms until the next automatic attempt if
--       this one was automatic, a space, and ms if it was manual ('' = none), detail (a JSON object without its closing
--       brace: `manual`, `next`, `retry_in_ms`, `asked` and `automatic` are decided here)
-- Returns for each attempt the id of its entry, or false where the task is not live (it is recorded already, or its
--       lease ended and the delivery was closed meanwhile).
-- Invariant: one record an attempt, attempts contiguous, every accepted request for a retry is followed by an attempt
-- of its own and uses up no automatic one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local some = redis.call('EXISTS', KEYS[2], KEYS[4])
local wanted = some > 0 and redis.call('EXISTS', KEYS[2]) == 1
local counted = some > (wanted and 1 or 0)
local names, over, done = {}, {}, {}
for at = 2, #ARGV, 6 do names[#names + 1] = ARGV[at] end
local scores = #names > 0 and redis.call('ZMSCORE', KEYS[1], unpack(names)) or {}
local function record(score, task, tenant, event, succeeded, retry, detail)
  if not score or done[task] then return false end
  local want = wanted and redis.call('HGET', KEYS[2], task) or ''
  local manual, manuals, attempt, delivery = string.find(want, 'm', 1, true) ~= nil, 0, nil, nil
  if counted or manual or succeeded ~= '1' or want ~= '' then
    attempt, delivery = string.match(task, '^(%d+)(/.*)$')
    manuals = (counted and redis.call('HGET', KEYS[4], delivery) or 0) + (manual and 1 or 0)
  end
  local following, delay = 'none', nil
  local _, asked = string.gsub(want, 'r', '')
  if asked > 0 then
    following, delay = 'manual', 0
  elseif succeeded ~= '1' and not string.find(want, 'c', 1, true) then
    delay = tonumber(string.match(retry, manual and ' (%d+)$' or '^(%d+)'))
    following = delay and 'auto' or 'none'
  end
  detail = detail .. ',"manual":' .. tostring(manual)
    .. ',"next":"' .. following .. '"' .. (delay and ',"retry_in_ms":' .. string.format('%d', delay) or '')
    .. (asked > 1 and ',"asked":' .. asked or '')
    .. (manuals > 0 and ',"automatic":' .. string.format('%d', attempt - manuals) or '') .. '}'
  local kind = succeeded == '1' and 'attempt.succeeded' or 'attempt.failed'
  local id = redis.call('XADD', KEYS[3], '*', 't', kind, 'v', 1, 'ten', tenant, 'id', event, 'ref', task,
    'by', ARGV[1], 'd', detail)
  done[task], over[#over + 1] = true, task
  if counted and not delay then redis.call('HDEL', KEYS[4], delivery) end
  if delay then
    if manual then redis.call('HSET', KEYS[4], delivery, manuals) end
    local next_task = string.format('%d', attempt + 1) .. delivery
    redis.call('ZADD', KEYS[1], now + delay, next_task)
    if following == 'manual' then redis.call('HSET', KEYS[2], next_task, string.rep('r', asked)) end
  end
  return id
end
local answers = {}
for i, score in ipairs(scores) do answers[i] = record(score, unpack(ARGV, i * 6 - 4, i * 6 + 1)) end
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
  if wanted then redis.call('HDEL', KEYS[2], unpack(over)) end
end
return answers
