-- Takes read entries out of the pending list and makes their first attempts live.
--
-- KEYS: 1 evt, 2 due
-- ARGV: 1 group, 2 watchdog ms, then for each entry: id, count of tasks, the tasks
-- Returns for each entry 1 (hand its tasks over) or 0 (another dispatcher did). Fails, with nothing changed, where
-- Redis is out of memory or `due` is of another type; at an argument that is malformed, with the entries before it
-- opened and the others pending.
-- Invariant: gated by XACK, so that two dispatchers that hold the same entry hand it over once; nothing of an entry
-- is handed over before it stands in `due`; what is acknowledged stands there, whatever fails behind it.
local time = redis.call('TIME')
local score = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
redis.call('ZADD', KEYS[2], 'XX', score, '') -- changes nothing; after an XACK Redis would let ZADD pass its limit
local answers, live, at = {}, {}, 3
local good, problem = pcall(function()
  while at <= #ARGV do
    local n = tonumber(ARGV[at + 1])
    if not (n >= 0 and at + 1 + n <= #ARGV) then error('a malformed entry') end
    local acked = redis.call('XACK', KEYS[1], ARGV[1], ARGV[at])
    if acked == 1 then
      for i = at + 2, at + 1 + n do live[#live + 1], live[#live + 2] = score, ARGV[i] end
    end
    answers[#answers + 1] = acked
    at = at + 2 + n
  end
end)
for i = 1, #live, 1000 do redis.call('ZADD', KEYS[2], unpack(live, i, math.min(i + 999, #live))) end
if not good then error(problem, 0) end
return answers
