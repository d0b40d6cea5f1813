-- Deletes consumers of the group that have nothing pending: processes that are gone leave their names behind.
--
-- KEYS: 1 evt
-- ARGV: 1 group, then names
-- Returns those names that have entries pending, which are to be taken over first.
-- Invariant: never deletes a consumer with something pending, for Redis would drop that unseen. Who still reads under
-- a deleted name is made a consumer again by its next read.
local pending = {}
for i = 2, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[i]) > 0 then
    pending[#pending + 1] = ARGV[i]
  else
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[i])
  end
end
return pending
