-- Estimates the memory that keys of one partition take.
--
-- KEYS: 1.. the keys; one that does not exist counts nothing
-- ARGV: 1 how many members of a key are looked at; the others are taken to be as large
-- Returns bytes.
local total = 0
for _, key in ipairs(KEYS) do
  total = total + (redis.call('MEMORY', 'USAGE', key, 'SAMPLES', ARGV[1]) or 0)
end
return total
