-- Takes tasks whose time has come: retries that are due, watchdogs and leases that ended. Takes those, too, that are
-- further away than any delay can be: the clock was ahead for a moment when they were scored.
--
-- KEYS: 1 due
-- ARGV: 1 watchdog ms, 2 how many at most of either kind, 3 the longest delay ms, 4 the longest lease ms
-- Returns {now ms, score of the next one or false, task, task, ..}
-- Invariant: a claimed task stays live; if its claimer dies it comes back when the watchdog ends. A lease that is too
-- far away is not taken but made as long as a lease can be: its holder may still send.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tasks = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
local beyond = string.format('(%d', now + ARGV[3])
local far = redis.call('ZRANGEBYSCORE', KEYS[1], beyond, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #far, 2 do
  if far[i + 1] % 1 == 0.5 then
    redis.call('ZADD', KEYS[1], now + ARGV[4] + 0.5, far[i])
  else
    tasks[#tasks + 1] = far[i]
  end
end
for _, task in ipairs(tasks) do redis.call('ZADD', KEYS[1], now + ARGV[1], task) end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local answer = {now, following[2] or false}
for _, task in ipairs(tasks) do answer[#answer + 1] = task end
return answer
