-- Makes the dispatcher's group where it is missing, and marks the partition as being mended.
--
-- KEYS: 1 evt, 2 mend
-- ARGV: 1 group, 2 a name for this loss, which no other has (no spaces)
-- Returns {1, the mark: head and name} if it was made at the head, {0, the mark or ''} if the group is there.
-- Invariant: what is appended after the head is read by the group, what stands up to it is folded by `mend`. A mark
-- tells two losses at one head apart, so that who repairs the first does not finish the second.
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    if group[2] == ARGV[1] then return {0, redis.call('GET', KEYS[2]) or ''} end
  end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '$', 'MKSTREAM')
local info, head = redis.call('XINFO', 'STREAM', KEYS[1]), nil
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then head = info[i + 1] end
end
local mark = head .. ' ' .. ARGV[2]
redis.call('SET', KEYS[2], mark)
return {1, mark}
