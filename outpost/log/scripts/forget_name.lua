-- Forgets leased names whose lease is over, once their consumers were reaped.
--
-- KEYS: 1 slots (hash: name -> holder and end of its lease)
-- ARGV: 1 the longest lease ms (one that ends later was taken by a clock that was ahead, and is over), then names
-- Returns how many were forgotten; one that was leased meanwhile stays.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local forgotten = 0
for i = 2, #ARGV do
  local ends = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', ' (%d+)$'))
  if ends and (ends <= now or ends > now + ARGV[1]) then forgotten = forgotten + redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return forgotten
