-- Moves the checkpoint of one read-model generation and applies what the entries up to there do to it.
--
-- KEYS: 1 checkpoint, 2.. every key that an operation names
-- ARGV: 1 the checkpoint that the operations start from, 2 the one they reach, then for each operation:
--       count of its arguments, command, index into KEYS, further arguments
-- Returns {1, new checkpoint}, or {0, present checkpoint} with nothing changed.
-- Invariant: the read model at a checkpoint is the fold of `cfg` up to it, whoever computed it.
local present = redis.call('GET', KEYS[1]) or '0-0'
if present ~= ARGV[1] then return {0, present} end
local at = 3
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  redis.call(ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], unpack(ARGV, at + 3, at + n))
  at = at + n + 1
end
redis.call('SET', KEYS[1], ARGV[2])
return {1, ARGV[2]}
