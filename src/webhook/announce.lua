-- Announces that a node begins or ceases to have something. That is an event only if no other node has it. The event
-- goes into the endpoints' streams in the same step, so that their order is the order of what happened.
-- KEYS  1 set: the nodes that have it   2… streams: what waits for each endpoint
-- ARGV  1 the node, or nothing when it is an event anyway   2 "1" when it begins, "0" when it ceases   3 the event
--       4 events that may wait   5 bytes of Redis' memory that they may take up
-- Returns how many events each stream has dropped, the oldest first; nothing when it is no event.
local KEPT = 86400 -- seconds for which a stream is kept that nobody adds to: its endpoint is no longer there

-- Drops the oldest events of a stream that takes up too much memory, but never the last one.
local function trim(stream, bytes_max)
  local dropped = 0
  while true do
    -- Redis estimates it from some entries, which is cheap. Without an estimate only the number of events counts.
    local bytes = redis.pcall('MEMORY', 'USAGE', stream)
    local events = redis.call('XLEN', stream)
    if type(bytes) ~= 'number' or bytes <= bytes_max or events <= 1 then
      return dropped
    end
    local kept = math.max(1, math.min(events - 1, math.floor(events * bytes_max / bytes)))
    dropped = dropped + redis.call('XTRIM', stream, 'MAXLEN', kept)
  end
end

if ARGV[1] ~= '' then
  local changed = redis.call(ARGV[2] == '1' and 'SADD' or 'SREM', KEYS[1], ARGV[1])
  if changed == 0 or redis.call('SCARD', KEYS[1]) ~= tonumber(ARGV[2]) then
    return false
  end
end
local dropped = {}
for stream = 2, #KEYS do
  if redis.call('TYPE', KEYS[stream]).ok ~= 'stream' then
    redis.call('DEL', KEYS[stream])
  end
  local added = redis.pcall('XADD', KEYS[stream], '*', 'event', ARGV[3])
  if type(added) == 'table' and added.err then
    if not added.err:find('last possible ID', 1, true) then
      return added
    end
    -- Other software has used up all ids.
    redis.call('DEL', KEYS[stream])
    redis.call('XADD', KEYS[stream], '*', 'event', ARGV[3])
  end
  redis.call('EXPIRE', KEYS[stream], KEPT)
  dropped[stream - 1] = redis.call('XTRIM', KEYS[stream], 'MAXLEN', ARGV[4]) + trim(KEYS[stream], tonumber(ARGV[5]))
end
return dropped
