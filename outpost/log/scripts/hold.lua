-- Pushes the watchdog of tasks that wait in a process; with a delay of 0, gives them back.
--
-- KEYS: 1 due
-- ARGV: 1 delay ms, then tasks
-- Returns the tasks that are not the caller's to keep: no longer live, or leased by a process that sends.
-- Invariant: never adds a task, never touches a lease.
local time = redis.call('TIME')
local score = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local lost = {}
for i = 2, #ARGV do
  local present = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if present and present % 1 == 0 then
    redis.call('ZADD', KEYS[1], score, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
