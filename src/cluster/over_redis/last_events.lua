-- Stores and reads the last events of a channel's keys, for nodes that open the channel.
-- KEYS  1 hash: field of a key with its event   2 sorted set: the fields by the time of their events, in milliseconds
-- ARGV  1 milliseconds to keep an event   2 fields at most   3 bytes of events to answer with; 0 to answer with nothing
--       4 the last event of each node that this one knows of: "<node> <number> <node> <number> …"
--       5, 6, 7 … field, age of its event in milliseconds, event
-- Returns field, age and event of each key, the newest first.
local events, times = KEYS[1], KEYS[2]
local keep, max, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local HEAD = '^gema/1 event (%x+) (%d+) '
-- After this time whatever was published has arrived everywhere.
local ARRIVED = 10000
-- See `src/flow/channel/stored.rs`.
local REPEATED_MAX = 65536
-- Fields that are read or removed at once.
local PAGE = 1000

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local known = {}
for node, number in ARGV[4]:gmatch('(%x+) (%d+)') do
  known[node] = math.max(known[node] or 0, tonumber(number))
end

local function is_type(key, kind)
  local is = redis.call('TYPE', key).ok
  return is == kind or is == 'none'
end

-- Somebody else has written here, or Redis had no memory for one of the two.
if not (is_type(events, 'hash') and is_type(times, 'zset')) or redis.call('HLEN', events) ~= redis.call('ZCARD', times) then
  redis.call('UNLINK', events, times)
end

-- Whether an event may take the place of the one that is stored: not if its node has not heard that one yet.
local function replaces(field, event)
  local stored = redis.call('HGET', events, field)
  local node, number = (stored or ''):match(HEAD)
  if not node then
    return true
  end
  number = tonumber(number)
  local new_node, new_number = event:match(HEAD)
  if node == new_node then
    -- A number far above is somebody else's.
    if number - tonumber(new_number) < REPEATED_MAX then
      return tonumber(new_number) > number
    end
  elseif known[node] and known[node] >= number then
    return true
  end
  local since = tonumber(redis.call('ZSCORE', times, field) or '0') or 0
  return since < now - ARRIVED or since > now
end

local function remove(fields)
  for _, field in ipairs(fields) do
    redis.call('HDEL', events, field)
    redis.call('ZREM', times, field)
  end
end

for i = 5, #ARGV, 3 do
  local field, age, event = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  if replaces(field, event) then
    redis.call('HSET', events, field, event)
    redis.call('ZADD', times, now - age, field)
  end
end
if #ARGV > 4 then
  -- Whatever is left of these is not read, and goes the next time.
  remove(redis.call('ZRANGEBYSCORE', times, '-inf', now - keep, 'LIMIT', 0, PAGE))
  local excess = redis.call('ZCARD', times) - max
  if excess > 0 then
    remove(redis.call('ZRANGE', times, 0, excess - 1))
  end
  redis.call('PEXPIRE', events, keep)
  redis.call('PEXPIRE', times, keep)
end

local found, offset = {}, 0
while bytes > 0 and offset < max do
  local count = math.min(PAGE, max - offset)
  local fields =
    redis.call('ZREVRANGEBYSCORE', times, '+inf', '(' .. (now - keep), 'WITHSCORES', 'LIMIT', offset, count)
  for i = 1, #fields, 2 do
    local event = redis.call('HGET', events, fields[i]) or ''
    bytes = bytes - #fields[i] - #event
    if bytes < 0 then
      break
    end
    found[#found + 1] = fields[i]
    found[#found + 1] = math.max(0, now - tonumber(fields[i + 1]))
    found[#found + 1] = event
  end
  if #fields < 2 * count then
    break
  end
  offset = offset + count
end
return found
