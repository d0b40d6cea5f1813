-- Appends entries to one stream, each once, each against the tenant version it was made for.
--
-- KEYS: 1 stream, 2 ver, 3.. the idem buckets that the caller thinks can matter, in order
-- ARGV: 1 number of the first bucket, 2 bucket ms, 3 window ms, then for each entry:
--       tenant, mark (what may be there once), request, expected version ('' = any), next version ('' = unchanged),
--       matched (told to a duplicate), count of field arguments, the field arguments
-- Returns for each entry: {'ok', id} | {'duplicate', id, matched} | {'stale', version} | {'clock', now ms}
-- Invariant: an entry stands in the stream if and only if its mark does; an answer repeated for the same request
-- is the first answer.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first, width, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = math.floor(now / width) - first + 3 -- index in KEYS; the window reaches back two buckets
local inside = bucket >= 5 and bucket <= #KEYS
local answers, at, written = {}, 4, false
while at <= #ARGV do
  local tenant, mark, request, expected, following, matched, n = unpack(ARGV, at, at + 6)
  local fields = at + 7
  at = fields + n
  local answer
  if not inside then
    answer = {'clock', now}
  else
    for back = 0, 2 do
      local found = redis.call('HGET', KEYS[bucket - back], mark)
      if found then
        local id, by, was = string.match(found, '^(%S+) (%S*) (.*)$')
        if by == request then
          answer = {'ok', id}
        elseif now - tonumber(string.match(id, '^%d+')) <= window then
          answer = {'duplicate', id, was}
        end
      end
      if answer then break end
    end
  end
  if not answer and expected ~= '' then
    local version = redis.call('HGET', KEYS[2], tenant) or '0'
    if version ~= expected then answer = {'stale', tonumber(version)} end
  end
  if not answer then
    local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, fields, at - 1))
    if following ~= '' then redis.call('HSET', KEYS[2], tenant, following) end
    redis.call('HSET', KEYS[bucket], mark, id .. ' ' .. request .. ' ' .. matched)
    answer, written = {'ok', id}, true
  end
  answers[#answers + 1] = answer
end
if written then redis.call('PEXPIREAT', KEYS[bucket], (first + bucket + 1) * width) end
return answers
