-- Forgets leased names whose lease is over, once their consumers were reaped.
--
-- KEYS: 1 slots (hash: name -> holder and end of its lease)
-- ARGV: names
-- Returns how many were forgotten; one that was leased meanwhile stays.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local forgotten = 0
for _, name in ipairs(ARGV) do
  local ends = string.match(redis.call('HGET', KEYS[1], name) or '', ' (%d+)$')
  if ends and tonumber(ends) <= now then forgotten = forgotten + redis.call('HDEL', KEYS[1], name) end
end
return forgotten
