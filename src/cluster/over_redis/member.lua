-- Changes the members of a topic: all changes of one node at once. Publishes each with a version of its own.
-- KEYS  1 hash: "version", and "<node>:<user id>" with the version since when the user_info counts, and the user_info
--       2 hash: user id with the number of nodes that have the user
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 head of a change's message   4 the node   5 users at most
--       6 "1" when all other users of the node have left   7 "1" to answer with all members
--       8, 9, 10 … user id, user_info, which is empty for a user that leaves, and the version since when it counts: "0"
--       for a new one, nothing when the hash may have it already
-- Returns the version, the users that were refused because the topic is full, and the first hash if it was wanted.
-- Redis refuses the first write of a change when it is out of memory. So a change is made completely or not at all.
local members, users = KEYS[1], KEYS[2]
local topic, publish, head, node, max, whole, all = unpack(ARGV, 1, 7)

-- Lua does not count exactly beyond it. The clock gets there in the year 2112.
local VERSION_MAX = 2 ^ 52

local version = redis.call('HGET', members, 'version')
local number = tonumber(version or '')
if not (number and number >= 1 and number <= VERSION_MAX and number % 1 == 0) then
  -- Greater than any version that was here before, except one that other software has written.
  local time = redis.call('TIME')
  number = time[1] * 1000000 + time[2]
  if version or all == '1' then
    -- A node that listens from now on knows which version the next change follows.
    redis.call('HSET', members, 'version', string.format('%.0f', number))
  end
end
version = string.format('%.0f', number)

local function count()
  number = number + 1
  version = string.format('%.0f', number)
end

local function publish_change(user, info, since)
  redis.call('HSET', members, 'version', version)
  local sizes = since .. ' ' .. #user .. ' ' .. #info
  redis.call(publish, topic, head .. version .. ' ' .. node .. ' ' .. sizes .. '\n' .. user .. info)
end

local function add(user, info, since)
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
  publish_change(user, info, since)
  return true
end

local function remove(user)
  local field = node .. ':' .. user
  if redis.call('HEXISTS', members, field) == 0 then
    return
  end
  if redis.call('HINCRBY', users, user, -1) <= 0 then
    redis.call('HDEL', users, user)
  end
  redis.call('HDEL', members, field)
  count()
  publish_change(user, '', '0')
end

local refused, named = {}, {}
for i = 8, #ARGV, 3 do
  named[ARGV[i]] = true
  if ARGV[i + 1] == '' then
    remove(ARGV[i])
  elseif not add(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
    refused[#refused + 1] = ARGV[i]
  end
end
if whole == '1' then
  local start = node .. ':'
  for _, field in ipairs(redis.call('HKEYS', members)) do
    if field:sub(1, #start) == start and not named[field:sub(#start + 1)] then
      remove(field:sub(#start + 1))
    end
  end
end
local found = all == '1' and redis.call('HGETALL', members) or {}
-- If a user comes back soon, nodes that still listen need no comparison.
if redis.call('HLEN', users) == 0 then
  redis.call('EXPIRE', members, 600)
else
  redis.call('PERSIST', members)
end
return { version, refused, found }
