-- Takes tasks whose time has come: retries that are due, watchdogs and leases that ended.
--
-- KEYS: 1 due
-- ARGV: 1 watchdog ms, 2 how many at most
-- Returns {now ms, score of the next one or false, task, task, ..}
-- Invariant: a claimed task stays live; if its claimer dies it comes back when the watchdog ends.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tasks = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, task in ipairs(tasks) do redis.call('ZADD', KEYS[1], now + ARGV[1], task) end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {now, following[2] or false, unpack(tasks)}
