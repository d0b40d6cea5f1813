-- Pushes the watchdog of tasks that wait in a process; with a delay of 0, gives them back.
--
-- KEYS: 1 due
-- ARGV: for each task: task, delay ms
-- Returns the tasks that are not the caller's to keep: no longer live, or leased by a process that sends.
-- Invariant: never adds a task, never touches a lease.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local names, lost, moved = {}, {}, {}
for at = 1, #ARGV, 2 do names[#names + 1] = ARGV[at] end
for first = 1, #names, 1000 do -- `unpack` takes less than 8,000
  for at, score in ipairs(redis.call('ZMSCORE', KEYS[1], unpack(names, first, math.min(first + 999, #names)))) do
    local i = first + at - 1
    if score and score % 1 == 0 then
      moved[#moved + 1], moved[#moved + 2] = now + ARGV[i * 2], names[i]
    else
      lost[#lost + 1] = names[i]
    end
  end
end
for i = 1, #moved, 1000 do redis.call('ZADD', KEYS[1], unpack(moved, i, math.min(i + 999, #moved))) end
return lost
