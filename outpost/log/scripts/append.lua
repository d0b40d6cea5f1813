-- Appends entries to one stream, each once, each against the tenant version it was made for.
--
-- KEYS: 1 stream, 2 ver, 3.. the idem buckets that the caller thinks can matter, in order
-- ARGV: 1 number of the first bucket, 2 bucket ms, 3 window ms, then for each entry:
--       tenant, mark (what may be there once), request, expected version ('' = any), next version ('' = unchanged),
--       matched (told to a duplicate), count of field arguments, the field arguments
-- Returns for each entry: id | {'duplicate', id, matched} | {'stale', version} | {'clock', now ms}
-- Invariant: an entry stands in the stream if and only if its mark does; an answer repeated for the same request
-- is the first answer.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first, width, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = math.floor(now / width) - first + 3 -- index in KEYS; the window reaches back two buckets
local inside = bucket >= 5 and bucket <= #KEYS
local marks, at = {}, 4
while at <= #ARGV do
  marks[#marks + 1] = ARGV[at + 1]
  at = at + 7 + ARGV[at + 6]
end
local found = {}
for back = 0, inside and #marks > 0 and 2 or -1 do found[back] = redis.call('HMGET', KEYS[bucket - back], unpack(marks)) end
local versions, new, puts = {}, {}, {}
local function earlier(i, request)
  for back = 0, 2 do
    local was = back == 0 and new[marks[i]] or found[back][i]
    if was then
      local id, by, matched = string.match(was, '^(%S+) (%S*) (.*)$')
      if by == request then return id end
      if now - tonumber(string.match(id, '^%d+')) <= window then return {'duplicate', id, matched} end
    end
  end
end
local function add(i, at, n)
  local tenant, expected, following = ARGV[at], ARGV[at + 3], ARGV[at + 4]
  if expected ~= '' then
    versions[tenant] = versions[tenant] or redis.call('HGET', KEYS[2], tenant) or '0'
    if versions[tenant] ~= expected then return {'stale', tonumber(versions[tenant])} end
  end
  local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 7, at + 6 + n))
  if following ~= '' then
    redis.call('HSET', KEYS[2], tenant, following)
    versions[tenant] = following
  end
  local mark = id .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 5]
  new[marks[i]], puts[#puts + 1], puts[#puts + 2] = mark, marks[i], mark
  return id
end
local answers = {}
at = 4
for i = 1, #marks do
  local n = tonumber(ARGV[at + 6])
  answers[i] = inside and (earlier(i, ARGV[at + 2]) or add(i, at, n)) or {'clock', now}
  at = at + 7 + n
end
if #puts > 0 then
  redis.call('HSET', KEYS[bucket], unpack(puts))
  redis.call('PEXPIREAT', KEYS[bucket], (first + bucket + 1) * width)
end
return answers
