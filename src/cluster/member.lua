-- Who is on a topic: all changes of one node at once, each told on the topic with its own version.
-- KEYS  1 hash: "version", and "<node>:<user id>" with the version since when this is told and JSON about the user
--       2 hash: user id with the number of nodes that hold the user
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 head of a change's message   4 the node   5 users at most
--       6 "1" when who is not named below has left   7 "1" when all are asked for
--       8, 9, 10 … user id, JSON about the user, which is empty for one that leaves, and the version since when this is
--       told: "0" for from now on, nothing when it may be told already
-- Returns the version, the users that did not fit in, and the first hash where it was asked for.
-- The first write of a change is one that Redis refuses when it is out of memory, so that it is whole or not at all.
local members, users = KEYS[1], KEYS[2]
local topic, publish, head, node, max, whole, all = unpack(ARGV, 1, 7)

-- Beyond it this language does not count exactly. The clock gets there in the year 2112.
local VERSION_MAX = 2 ^ 52

local version = redis.call('HGET', members, 'version')
local number = tonumber(version or '')
if not (number and number >= 1 and number <= VERSION_MAX and number % 1 == 0) then
  -- Greater than any version that has been here before, but for one that somebody else has written.
  local time = redis.call('TIME')
  number = time[1] * 1000000 + time[2]
  if version or all == '1' then
    -- Whoever listens from now on knows where the next change comes from.
    redis.call('HSET', members, 'version', string.format('%.0f', number))
  end
end
version = string.format('%.0f', number)

local function count()
  number = number + 1
  version = string.format('%.0f', number)
end

local function tell(user, info, since)
  redis.call('HSET', members, 'version', version)
  local sizes = since .. ' ' .. #user .. ' ' .. #info
  redis.call(publish, topic, head .. version .. ' ' .. node .. ' ' .. sizes .. '\n' .. user .. info)
end

local function come(user, info, since)
  local field = node .. ':' .. user
  local before = redis.call('HGET', members, field)
  if before and (before == since .. ' ' .. info or since == '' and before:match('^%d+ (.*)$') == info) then
    return true
  end
  if not before and redis.call('HEXISTS', users, user) == 0 and redis.call('HLEN', users) >= tonumber(max) then
    return false
  end
  count()
  if since == '' or since == '0' then
    since = version
  end
  redis.call('HSET', members, field, since .. ' ' .. info)
  if not before then
    redis.call('HINCRBY', users, user, 1)
  end
  tell(user, info, since)
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
  count()
  tell(user, '', '0')
end

local refused, named = {}, {}
for i = 8, #ARGV, 3 do
  named[ARGV[i]] = true
  if ARGV[i + 1] == '' then
    go(ARGV[i])
  elseif not come(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
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
