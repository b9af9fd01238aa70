-- Who is on a topic: all changes of one node at once, each told on the topic with its own version.
-- KEYS  1 hash: "version", and "<node>:<user id>" with JSON about the user
--       2 hash: user id with the number of nodes that hold the user
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 head of a change's message   4 the node   5 users at most
--       6 "1" when who is not named below has left   7 "1" when all are asked for
--       8, 9 … user id and JSON about the user, which is empty for one that leaves
-- Returns the version, the users that did not fit in, and the first hash where it was asked for.
-- The first write of a change is one that Redis refuses when it is out of memory, so that it is whole or not at all.
local members, users = KEYS[1], KEYS[2]
local topic, publish, head, node, max, whole, all = unpack(ARGV, 1, 7)

local version = redis.call('HGET', members, 'version')
if not version then
  -- Greater than any version that has been here before.
  local time = redis.call('TIME')
  version = string.format('%.0f', time[1] * 1000000 + time[2])
  if all == '1' then
    -- Whoever listens from now on knows where the next change comes from.
    redis.call('HSET', members, 'version', version)
  end
end

local function tell(user, info)
  version = string.format('%.0f', version + 1)
  redis.call('HSET', members, 'version', version)
  redis.call(publish, topic, head .. version .. ' ' .. node .. ' ' .. #user .. ' ' .. #info .. '\n' .. user .. info)
end

local function come(user, info)
  local field = node .. ':' .. user
  if redis.call('HEXISTS', members, field) == 1 then
    return true
  end
  if redis.call('HEXISTS', users, user) == 0 and redis.call('HLEN', users) >= tonumber(max) then
    return false
  end
  redis.call('HSET', members, field, info)
  redis.call('HINCRBY', users, user, 1)
  tell(user, info)
  return true
end

local function go(user)
  local field = node .. ':' .. user
  if redis.call('HEXISTS', members, field) == 0 then
    return
  end
  if redis.call('HINCRBY', users, user, -1) <= 0 then
    redis.call('HDEL', users, user)
  end
  redis.call('HDEL', members, field)
  tell(user, '')
end

local refused, named = {}, {}
for i = 8, #ARGV, 2 do
  named[ARGV[i]] = true
  if ARGV[i + 1] == '' then
    go(ARGV[i])
  elseif not come(ARGV[i], ARGV[i + 1]) then
    refused[#refused + 1] = ARGV[i]
  end
end
if whole == '1' then
  local start = node .. ':'
  for _, field in ipairs(redis.call('HKEYS', members)) do
    if field:sub(1, #start) == start and not named[field:sub(#start + 1)] then
      go(field:sub(#start + 1))
    end
  end
end
local found = all == '1' and redis.call('HGETALL', members) or {}
-- Whoever still listens is spared a comparison if somebody comes back soon.
if redis.call('HLEN', users) == 0 then
  redis.call('EXPIRE', members, 600)
else
  redis.call('PERSIST', members)
end
return { version, refused, found }
