-- Leases the first free consumer name, or renews a lease.
--
-- KEYS: 1 slots (hash: name -> holder and end of its lease)
-- ARGV: 1 holder, 2 lease ms (0 = give it back), 3 the name that is held already ('' = none), 4 the longest lease ms
-- Returns the name, or false where a lease that was to be renewed has passed to another.
-- Invariant: one live holder a name, so that names are few and are used again instead of leaking. A lease that ends
-- further away than any can be is over: the clock was ahead when it was taken.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function free(name)
  local holder, ends = string.match(redis.call('HGET', KEYS[1], name) or '', '^(%S+) (%d+)$')
  return holder == nil or holder == ARGV[1] or tonumber(ends) <= now or tonumber(ends) > now + ARGV[4]
end
local name, number = ARGV[3], 0
if name ~= '' then
  if not free(name) then return false end
else
  repeat
    name, number = 'd' .. number, number + 1
  until free(name)
end
redis.call('HSET', KEYS[1], name, ARGV[1] .. ' ' .. string.format('%d', now + ARGV[2]))
return name
