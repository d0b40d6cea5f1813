-- Completes `due` from a fold of the log, after the group was made again.
--
-- KEYS: 1 due, 2 want, 3 dlv, 4 mend, 5 manual
-- ARGV: 1 the mark that the fold went up to, 2 last `dlv` entry that it read, 3 1 if these are the last tasks,
--       4 how many entries to read behind 2, 5 how many of them at once, then for each task: task, how many attempts of
--       its delivery were manual ('' = none) and what was asked of it ('', 'r's or 'c'), ms at which it is due (0: at
--       once)
-- Returns how many were added, or, with nothing changed, 'more' where that many entries or more stand behind 2, which
--       the fold has to read first, or false where the mark is another: somebody finished it, or the group was made
--       once more.
-- Invariant: adds, never changes; leaves out every delivery that moved on after the fold. No trim while the mark
-- stands, so that what moved on is still there to be seen.
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moved, seen, most, chunk = {}, ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
while most > 0 do -- a chunk at a time, because Lua holds the entries of one XRANGE together
  local entries = redis.call('XRANGE', KEYS[3], '(' .. seen, '+', 'COUNT', math.min(chunk, most))
  most = #entries == math.min(chunk, most) and most - #entries or -1
  for _, entry in ipairs(entries) do
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'ref' then moved[string.match(entry[2][i + 1], '^%d+(/.*)$')] = true end
    end
    seen = entry[1]
  end
end
if most == 0 then return 'more' end
local added = 0
for at = 6, #ARGV, 3 do
  local task, want, due = unpack(ARGV, at, at + 2)
  if not moved[string.match(task, '^%d+(/.*)$')]
    and redis.call('ZADD', KEYS[1], 'NX', math.max(now, tonumber(due)), task) == 1 then
    local manual, letters = string.match(want, '^(%d*)(%l*)$')
    if letters ~= '' then redis.call('HSET', KEYS[2], task, letters) end
    if manual ~= '' then redis.call('HSET', KEYS[5], string.match(task, '/.*$'), manual) end
    added = added + 1
  end
end
if ARGV[3] == '1' then redis.call('DEL', KEYS[4]) end
return added
