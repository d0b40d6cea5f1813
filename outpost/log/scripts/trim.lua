-- Trims one stream up to the first entry that somebody still needs.
--
-- KEYS: 1 the stream (`evt` or `dlv`), 2 evt, 3 mend, 4 cut
-- ARGV: 1 group, 2 checkpoint of the slowest projection, 3 first entry to keep, 4 window ms, 5 about how many at most
-- Returns {trimmed, 1 if more could go, first entry that is or will be in the stream, the window's edge}; false, with
--       nothing changed, while the group is missing or `mend` is set, or where the stream ends before the checkpoint.
-- Invariant: in `evt` nothing goes that the group has not read or not acknowledged; in neither stream what is inside
-- the window. What has left `dlv` stands before `cut`.
local function parse(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function before(a, b)
  local ms, seq = parse(a)
  local ms_b, seq_b = parse(b)
  return ms < ms_b or ms == ms_b and seq < seq_b
end
local function after(id) return string.format('%d-%d', parse(id), select(2, parse(id)) + 1) end
local function field(info, name)
  for i = 1, #info, 2 do
    if info[i] == name then return info[i + 1] end
  end
end
if redis.call('EXISTS', KEYS[3]) == 1 or redis.call('EXISTS', KEYS[2]) == 0 then return false end
local group, last = nil, '0-0'
for _, each in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  if field(each, 'name') == ARGV[1] then group = each end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  last = field(redis.call('XINFO', 'STREAM', KEYS[1]), 'last-generated-id')
end
if not group or before(last, ARGV[2]) then return false end
local time = redis.call('TIME')
local edge = string.format('%d-0', math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[4]))
local cut = before(ARGV[3], edge) and ARGV[3] or edge
if KEYS[1] == KEYS[2] then
  local unread = after(field(group, 'last-delivered-id'))
  if field(group, 'pending') > 0 then unread = redis.call('XPENDING', KEYS[2], ARGV[1])[2] end
  if before(unread, cut) then cut = unread end
end
local trimmed = redis.call('XTRIM', KEYS[1], 'MINID', '~', cut, 'LIMIT', ARGV[5])
local more = trimmed * 2 > tonumber(ARGV[5]) -- whole nodes only, so that it may stop short of the limit
if not more then trimmed = trimmed + redis.call('XTRIM', KEYS[1], 'MINID', cut) end
if trimmed > 0 and KEYS[1] ~= KEYS[2] then redis.call('SET', KEYS[4], cut) end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {trimmed, more and 1 or 0, first and first[1] or after(last), edge}
