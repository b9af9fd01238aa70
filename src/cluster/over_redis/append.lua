-- Publishes an event of a channel with a history: numbers it, stores it and publishes it with its number in one step.
-- KEYS  1 hash: "epoch", "number", "bytes" and the places of users   2 stream: the events, each with its number as its
--       id, and the time in milliseconds behind it   3 the stored event of a cache channel
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 message   4 beginning of the line with the number
--       5 milliseconds to keep an event   6 events at most   7 bytes at most   8 an epoch if events are kept for everybody,
--       nothing if only for known users   9 milliseconds to store the event of a cache channel, or nothing
-- An event that cannot be stored, such as for want of memory, is published without a number.
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
-- Nothing in here may keep the event from being published.
local function number_and_store()
  local found = redis.pcall('HMGET', head, 'epoch', 'bytes')
  if found.err then
    return
  end
  local epoch = found[1]
  if epoch and not (#epoch == 16 and epoch:match('^%x+$')) then
    -- Somebody else has written here.
    return
  end
  if not epoch and fresh ~= '' then
    local last = redis.pcall('XREVRANGE', events, '+', '-', 'COUNT', 1)
    local number = not last.err and last[1] and last[1][1]:match('^%d+') or '0'
    if last.err or redis.pcall('HSET', head, 'epoch', fresh, 'number', number).err then
      return
    end
    epoch = fresh
  end
  if not epoch then
    return
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local number = redis.pcall('HINCRBY', head, 'number', 1)
  local is_counted = type(number) == 'number' and number >= 1 and number <= NUMBER_MAX
  if not is_counted or redis.pcall('XADD', events, string.format('%.0f-%.0f', number, now), 'e', message).err then
    -- A user with a place has missed this event: the next epoch says so.
    redis.pcall('HDEL', head, 'epoch')
    return
  end
  local stored, bytes = redis.call('XLEN', events), (tonumber(found[2] or '') or 0) + #message
  if stored == 1 then
    bytes = #message
  end
  if number % PAUSE == 0 or bytes > bytes_max then
    local excess = stored - max
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
  end
  redis.call('HSET', head, 'bytes', string.format('%.0f', bytes))
  redis.call('PEXPIRE', events, 2 * keep)
  if fresh ~= '' then
    redis.call('PEXPIRE', head, 2 * keep)
  end
  return line .. epoch .. ' ' .. string.format('%.0f', number) .. '\n'
end

redis.call(publish, topic, (number_and_store() or '') .. message)
return 1
