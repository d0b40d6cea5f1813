-- Appends entries to one stream, each once, each against the tenant version it was made for.
--
-- KEYS: 1 stream, 2 ver, 3 idem (width of buckets in use -> ms until which marks stand there), 4.. for each declared
--       width the six buckets that the caller thinks can matter, in order
-- ARGV: 1 window ms, 2 count of declared widths, for each: width ms, number of its first bucket (the first is the
--       caller's own), then for each entry: tenant, mark (what may be there once), request, expected version ('' = any),
--       next version ('' = unchanged), matched (told to a duplicate), count of field arguments, the field arguments
-- Returns for each entry: id | {'duplicate', id, matched} | {'stale', version}; or for all, with nothing written
--       because other buckets matter, {'buckets', now ms, width in use, ms until which it is, ..}
-- Invariant: an entry stands in the stream if and only if its mark does; an answer repeated for the same request
-- is the first answer.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local use, others, declared = redis.call('HGETALL', KEYS[3]), false, {}
for i = 1, count do -- where the present bucket is in KEYS; the script looks back two and ahead one
  local offset = math.floor(now / ARGV[1 + 2 * i]) - ARGV[2 + 2 * i]
  declared[ARGV[1 + 2 * i]] = 6 * i - 2 + offset
  others = others or offset < 2 or offset > 4
end
for i = 1, #use, 2 do others = others or tonumber(use[i + 1]) > now and not declared[use[i]] end
if others then return {'buckets', now, unpack(use)} end
local marks, start = {}, 3 + 2 * count
local at = start
while at <= #ARGV do
  marks[#marks + 1] = ARGV[at + 1]
  at = at + 7 + ARGV[at + 6]
end
local found = {}
for _, bucket in pairs(#marks > 0 and declared or {}) do
  for key = bucket + 1, bucket - 2, -1 do
    local look = #marks <= 4 or redis.call('EXISTS', KEYS[key]) == 1 -- a few are found as fast as the bucket itself
    found[#found + 1] = look and redis.call('HMGET', KEYS[key], unpack(marks)) or nil
  end
end
local versions, new, puts = {}, {}, {}
local function same(was, request) -- the answer, where it is the mark of a repetition
  local id, by, matched = string.match(was, '^(%S+) (%S*) (.*)$')
  if by == request then return id end
  if now - tonumber(string.match(id, '^%d+')) <= window then return {'duplicate', id, matched} end
end
local function earlier(i, request)
  local answer = new[marks[i]] and same(new[marks[i]], request)
  for n = 1, answer and 0 or #found do answer = answer or found[n][i] and same(found[n][i], request) end
  return answer
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
at = start
for i = 1, #marks do
  local n = tonumber(ARGV[at + 6])
  answers[i] = earlier(i, ARGV[at + 2]) or add(i, at, n)
  at = at + 7 + n
end
if #puts > 0 then
  local width, bucket = ARGV[3], declared[ARGV[3]]
  local ends = (math.floor(now / width) + 4) * width
  redis.call('HSET', KEYS[bucket], unpack(puts))
  redis.call('PEXPIREAT', KEYS[bucket], ends, 'NX') -- what changes nothing is not written to the disk
  for i = 1, #use, 2 do
    if tonumber(use[i + 1]) <= now then redis.call('HDEL', KEYS[3], use[i]) end
    if use[i] == width then ends = tonumber(use[i + 1]) < ends and ends end
  end
  if ends then redis.call('HSET', KEYS[3], width, ends) end
end
return answers
