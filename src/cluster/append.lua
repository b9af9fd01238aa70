-- Publishes an event of a channel with a history: numbers it, stores it and publishes it with its number in one step.
-- KEYS  1 hash: "epoch", "number", "bytes" and the places of users   2 stream: the events, each with its number as its
--       id, and the time in milliseconds behind it   3 the stored event of a cache channel
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 message   4 beginning of the line with the number
--       5 milliseconds to keep an event   6 events at most   7 bytes at most   8 an epoch if events are kept for everybody,
--       nothing if only for known users   9 milliseconds to store the event of a cache channel, or nothing
-- A Redis that is out of memory does not store the event, but still publishes it, without a number.
local head, events = KEYS[1], KEYS[2]
local topic, publish, message, line, keep, max, bytes_max, fresh, cache = unpack(ARGV)
keep, max, bytes_max = tonumber(keep), tonumber(max), tonumber(bytes_max)
-- Between two looks for events beyond the bounds.
local PAUSE = 16
-- Lua does not count exactly beyond it.
local NUMBER_MAX = 2 ^ 53
-- Events that are removed at once.
local PAGE = 100

if cache ~= '' then
  redis.pcall('SET', KEYS[3], message, 'PX', cache)
end
local found = redis.pcall('HMGET', head, 'epoch', 'bytes')
local epoch = not found.err and found[1] or nil
if epoch and not (#epoch == 16 and epoch:match('^%x+$')) then
  -- Somebody else has written here.
  epoch, fresh = nil, ''
end
if not epoch and fresh ~= '' and not found.err then
  local last = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  if not redis.pcall('HSET', head, 'epoch', fresh, 'number', last and last[1]:match('^%d+') or '0').err then
    epoch = fresh
  end
end
local number = epoch and redis.pcall('HINCRBY', head, 'number', 1)
if type(number) ~= 'number' or number > NUMBER_MAX then
  if epoch then
    -- A user with a place has missed this event: the next epoch says so.
    redis.pcall('HDEL', head, 'epoch')
  end
  redis.call(publish, topic, message)
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id = string.format('%.0f-%.0f', number, now)
if not redis.pcall('XADD', events, id, 'e', message).err then
  local bytes = redis.call('HINCRBY', head, 'bytes', #message)
  if number % PAUSE == 0 or bytes > bytes_max then
    local excess = redis.call('XLEN', events) - max
    repeat
      local first, removed = redis.call('XRANGE', events, '-', '+', 'COUNT', PAGE), {}
      for _, entry in ipairs(first) do
        if excess <= 0 and bytes <= bytes_max and tonumber(entry[1]:match('%d+$')) >= now - keep then
          break
        end
        removed[#removed + 1] = entry[1]
        excess, bytes = excess - 1, bytes - #entry[2][2]
      end
      if #removed > 0 then
        redis.call('XDEL', events, unpack(removed))
      end
    until #removed < PAGE
    redis.call('HSET', head, 'bytes', string.format('%.0f', bytes))
  end
  redis.call('PEXPIRE', events, 2 * keep)
  if fresh ~= '' then
    redis.call('PEXPIRE', head, 2 * keep)
  end
end
redis.call(publish, topic, line .. epoch .. ' ' .. string.format('%.0f', number) .. '\n' .. message)
return number
