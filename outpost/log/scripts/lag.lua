-- What waits longest in a partition.
--
-- KEYS: 1 evt, 2 dlv, 3 due
-- ARGV: 1 group, 2 and 3 up to where `evt` and `dlv` are projected ('' = not asked)
-- Returns {now ms, first entry of `evt` that was not read or not acknowledged, score of the first task in `due`, first
--       entry behind each checkpoint}, with false for each that there is not. Where the group is missing, nothing was
--       read.
local function field(info, name)
  for i = 1, #info, 2 do
    if info[i] == name then return info[i + 1] end
  end
end
local function first(key, start)
  local found = start ~= '' and redis.call('XRANGE', key, '(' .. start, '+', 'COUNT', 1)[1]
  return found and found[1] or false
end
local waiting = first(KEYS[1], '0-0')
if waiting then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    if field(group, 'name') == ARGV[1] then
      waiting = first(KEYS[1], field(group, 'last-delivered-id'))
      if field(group, 'pending') > 0 then waiting = redis.call('XPENDING', KEYS[1], ARGV[1])[2] end
    end
  end
end
local time, due = redis.call('TIME'), redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {now, waiting, due[2] or false, first(KEYS[1], ARGV[2]), first(KEYS[2], ARGV[3])}
