-- Asks for one more attempt of a delivery, or for its cancellation.
--
-- KEYS: 1 due, 2 want, 3 dlv, 4 cut, 5 manual
-- ARGV: 1 'retry' or 'cancel', 2 delivery (a task id from its first '/' on), 3 tenant, 4 event, 5 by, 6 number of its
--       last attempt, 7 1 if it is closed, 8 the entry of `dlv` up to which 6, 7 and 9 hold, 9 how many of its attempts
--       were manual, 10 how many entries to read behind 8, 11 how many of them at once, 12 bytes of recorded answers
--       after which no more are read
-- Returns {'requested', id} | {'cancelled', id} | {'closed'} | {'unopened'}, or, with nothing changed, {'outdated'}
--       where entries behind 8 were trimmed, or the arguments 6 to 9 to call again with: {'more', last, closed, seen,
--       manual}
-- Invariant: a retry that is accepted is followed by an attempt of its own, a cancellation by none; the same `by`
-- asks once.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local what, delivery, tenant, event, by = unpack(ARGV, 1, 5)
local last, closed, seen, manual = tonumber(ARGV[6]), ARGV[7] == '1', ARGV[8], tonumber(ARGV[9])
local most, chunk, bytes = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
  return ''
end
local cut_ms, cut_seq = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+)-(%d+)$')
if cut_ms then
  local ms, seq = string.match(seen, '^(%d+)-(%d+)$')
  local apart = tonumber(cut_ms) - tonumber(ms)
  if apart > 0 or apart == 0 and tonumber(cut_seq) > seq + 1 then return {'outdated'} end
end
while most > 0 and bytes > 0 do -- a chunk at a time, because Lua holds the entries of one XRANGE together
  local entries = redis.call('XRANGE', KEYS[3], '(' .. seen, '+', 'COUNT', math.min(chunk, most))
  most = #entries == math.min(chunk, most) and most - #entries or -1
  for _, entry in ipairs(entries) do
    local attempt, place = string.match(field(entry, 'ref'), '^(%d+)(/.*)$')
    if place == delivery then
      local kind = field(entry, 't')
      if field(entry, 'by') == by then return {kind == 'delivery.cancelled' and 'cancelled' or 'requested', entry[1]} end
      closed = string.find(kind, '^delivery%.') ~= nil
      local automatic = tonumber(string.match(field(entry, 'd'), '"automatic":(%d+)}$'))
      if kind == 'retry.requested' then manual = last - (automatic or last) end
      if string.find(kind, '^attempt%.') then
        local following = string.match(field(entry, 'd'), '^.*"next":"(%l+)"') -- the last one, which `record` wrote
        last, closed = tonumber(attempt), following == 'none'
        manual = last - (automatic or last)
      end
    end
    seen, bytes = entry[1], bytes - #field(entry, 'd')
  end
end
if most >= 0 then return {'more', last, closed and 1 or 0, seen, manual} end
local task = string.format('%d', last + 1) .. delivery
local score = redis.call('ZSCORE', KEYS[1], task)
if not score and (what == 'cancel' or not closed) then return {closed and 'closed' or 'unopened'} end
local leased = score and score % 1 == 0.5 and tonumber(score) > now
local kind = what == 'retry' and 'retry.requested' or leased and 'cancel.requested' or 'delivery.cancelled'
if score then manual = tonumber(redis.call('HGET', KEYS[5], delivery) or 0) end
local detail = what == 'retry' and manual > 0 and string.format('{"automatic":%d}', last - manual) or ''
local id = redis.call('XADD', KEYS[3], '*', 't', kind, 'v', 1, 'ten', tenant, 'id', event, 'ref', task, 'by', by,
  'd', detail)
if kind == 'delivery.cancelled' then
  redis.call('ZREM', KEYS[1], task)
  redis.call('HDEL', KEYS[2], task)
  redis.call('HDEL', KEYS[5], delivery)
  return {'cancelled', id}
end
local kept, letter = what == 'retry' and 'c' or '[cr]', what == 'retry' and 'r' or 'c'
redis.call('HSET', KEYS[2], task, string.gsub(redis.call('HGET', KEYS[2], task) or '', kept, '') .. letter)
if manual > 0 then redis.call('HSET', KEYS[5], delivery, manual) end
if not leased then redis.call('ZADD', KEYS[1], now, task) end
return {'requested', id}
