-- Looks after the history of a channel beside its events: where known users are, and what a node lacks.
-- KEYS  1 hash: "epoch", "number" and "bytes" of the events; "node:<node>" with the place of the connections that follow a
--       node: epoch, number and time; "user:<user>" with the places of a user, see `read`
--       2 stream: the events
-- ARGV  1 what to do: "catch_up", "take" or "write"   2 an epoch, if a new one has to begin
--       3 milliseconds until a place is forgotten   4 … see below
-- "catch_up" 4 the epoch that the node knows, or nothing   5 the last number that it has   6 bytes of events at most
--       7 node and number of the event with the last number, or nothing
--       returns epoch, number, and the events after that number, the last one first: number, age, message
-- "take" 4 user   5 connection   6 its node   7 the nodes that live, between spaces   8 "1" if the connection has joined
--       already: then an open connection counts only if it is behind   9 the last number that the node has
--       returns epoch and number, and of the earlier connection its id, epoch, number and age of the place; no id if this
--       has been asked before
-- "write" 4 the node   5 the number of the connections that follow it, or nothing   6 its epoch   7 its age
--       8 … user, connection, kind, epoch, number and age: see `WRITE`
--       returns 1, or 0 if there is no epoch
local head, events = KEYS[1], KEYS[2]
local what, fresh, keep = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Events that are read at once.
local PAGE = 100
-- Users that are looked at for forgotten places, in each write.
local SWEPT = 20
-- Places of one user.
local PLACES_MAX = 64

local function whole(number)
  return string.format('%.0f', number)
end

local function is_type(key, kind)
  local is = redis.call('TYPE', key).ok
  return is == kind or is == 'none'
end

-- Somebody else has written here.
if not (is_type(head, 'hash') and is_type(events, 'stream')) then
  redis.call('UNLINK', head, events)
end

local found = redis.call('HMGET', head, 'epoch', 'number')
local epoch, number = found[1], tonumber(found[2] or '')
-- Lua does not count exactly beyond it.
local NUMBER_MAX = 2 ^ 53
if not (number and number >= 0 and number < NUMBER_MAX) then
  number = nil
end
if not (number and epoch and #epoch == 16 and epoch:match('^%x+$')) then
  epoch = nil
end

-- A new epoch, whose numbers are greater than all before it. Without memory for it the epoch that a node knows goes on for
-- that node alone, so that it gets what is stored now, and not behind later events. The next epoch says that some are
-- missing.
local function begin(least, known)
  local last = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  number = math.max(least, number or 0, last and tonumber(last[1]:match('^%d+')) or 0)
  epoch = fresh
  local set = known == '' and redis.call or redis.pcall
  local begun = set('HSET', head, 'epoch', epoch, 'number', whole(number))
  if type(begun) == 'table' and begun.err then
    epoch = known
  end
end

-- The places of a user, each "<connection>:<node>:<kind>:<epoch>:<number>:<time>:<time when it was cut off>".
-- "f" open, and follows its node
-- "n" open, and has joined just now, without an earlier connection of its user
-- "a" open, and has gone on from this place of an earlier connection just now
-- "b" open, and behind: its client has confirmed no more for a while
-- "t" open when another connection went on from here, this place
-- "s" behind when another connection went on from here, so that it has no place any more
-- "l" cut off
-- "d" cut off, and most likely before another connection went on from here: the client has confirmed nothing since
local function is_left(place)
  return place.kind == 'l' or place.kind == 'd'
end

local function read(user)
  local places = {}
  for socket, node, kind, of, at, since, left in
    (redis.call('HGET', head, 'user:' .. user) or ''):gmatch('([%d.]+):(%x+):(%a):(%x*):(%d+):(%d+):(%d+)')
  do
    local place = { socket = socket, node = node, kind = kind, epoch = of }
    place.number, place.since, place.left = tonumber(at), tonumber(since), tonumber(left)
    if not (is_left(place) and place.left < now - keep) then
      places[#places + 1] = place
    end
  end
  return places
end

local function store(user, places)
  while #places > PLACES_MAX do
    local newest = 1
    for index, place in ipairs(places) do
      if place.number > places[newest].number then
        newest = index
      end
    end
    table.remove(places, newest)
  end
  local texts = {}
  for index, place in ipairs(places) do
    texts[index] = table.concat({
      place.socket, place.node, place.kind, place.epoch, whole(place.number), whole(place.since), whole(place.left),
    }, ':')
  end
  if #texts == 0 then
    redis.call('HDEL', head, 'user:' .. user)
  else
    redis.call('HSET', head, 'user:' .. user, table.concat(texts, ' '))
  end
end

-- The place that all connections have that follow a node.
local function followed(node)
  local of, at, since = (redis.call('HGET', head, 'node:' .. node) or ''):match('^(%x+) (%d+) (%d+)$')
  return of, tonumber(at), tonumber(since)
end

-- Whether an event that a node has heard is the one of this number. One that is gone may be.
local function is_last(at, origin)
  local entry = redis.call('XRANGE', events, whole(at), whole(at), 'COUNT', 1)[1]
  if entry then
    return entry[2][2]:match('^gema/1 event (%x+ %d+) ') == origin
  end
  local first = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  return not first or tonumber(first[1]:match('^%d+')) > at
end

local function expire()
  redis.call('PEXPIRE', head, keep)
  redis.call('PEXPIRE', events, keep)
end

if what == 'catch_up' then
  local known, received, bytes = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
  local from = received
  if not epoch then
    begin(received, known)
  elseif number < received or (known == epoch and ARGV[7] ~= '' and not is_last(received, ARGV[7])) then
    -- Redis has come back with an older state, or somebody has cleared it.
    begin(received, known)
    from = 0
  elseif known ~= epoch then
    from = 0
  end
  expire()
  local answer, last = { epoch, whole(number) }, '+'
  while bytes > 0 do
    local page = redis.call('XREVRANGE', events, last, whole(from + 1), 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      local at, since = entry[1]:match('^(%d+)-(%d+)$')
      bytes = bytes - #entry[2][2]
      if bytes < 0 then
        break
      end
      if tonumber(since) >= now - keep / 2 then
        answer[#answer + 1] = at
        answer[#answer + 1] = math.max(0, now - since)
        answer[#answer + 1] = entry[2][2]
      end
    end
    if #page < PAGE then
      break
    end
    -- The number before it.
    last = whole(tonumber(page[#page][1]:match('^%d+')) - 1)
  end
  return answer
end

if what == 'take' then
  local user, socket, node, alive, is_late = ARGV[4], ARGV[5], ARGV[6], ' ' .. ARGV[7] .. ' ', ARGV[8] == '1'
  if not epoch then
    begin(tonumber(ARGV[9]), '')
  end
  local _, _, written = followed(node)
  if not written or written < now - keep then
    -- Nobody follows the node so far.
    redis.call('HSET', head, 'node:' .. node, epoch .. ' ' .. whole(number) .. ' ' .. whole(now))
  end
  expire()
  local places, oldest, doubtful, own = read(user), nil, nil, nil
  for index, place in ipairs(places) do
    local of, at, since = place.epoch, place.number, place.since
    -- A connection was most likely cut off before another went on from its place, if it has confirmed nothing since. So it
    -- counts only if there is no other place, or each return would bring what the last one brought.
    local is_doubtful = place.kind == 't' or place.kind == 'd'
    if place.kind == 'f' or place.kind == 't' then
      local all, all_at, all_since = followed(place.node)
      if all and (place.kind == 'f' or all_at > at) then
        of, at, since, is_doubtful = all, all_at, all_since, false
      end
    end
    local is_dead = not alive:find(' ' .. place.node .. ' ', 1, true)
    local is_open = not is_left(place) and not is_dead
    local counts = place.kind ~= 's' and not (is_open and place.kind ~= 'b' and (at >= number or is_late))
    if place.socket == socket then
      -- This was asked before, and the answer may be lost.
      own, counts, is_open = index, place.kind ~= 'n', false
    end
    local before = oldest
    if is_doubtful then
      before = doubtful
    end
    if counts and (not before or at < before.number) then
      local this = { index = index, epoch = of, number = at, since = since, is_open = is_open }
      if is_doubtful then
        doubtful = this
      else
        oldest = this
      end
    end
  end
  oldest = oldest or doubtful
  local new = { socket = socket, node = node, kind = 'n', epoch = epoch, number = number, since = now, left = 0 }
  local answer = { epoch, whole(number) }
  if oldest then
    local place = places[oldest.index]
    new.kind, new.epoch, new.number, new.since = 'a', oldest.epoch, oldest.number, oldest.since
    local socket_then = oldest.index == own and '' or place.socket
    for _, part in ipairs({ socket_then, oldest.epoch, whole(oldest.number), math.max(0, now - oldest.since) }) do
      answer[#answer + 1] = part
    end
    if oldest.is_open then
      place.kind = place.kind == 'b' and 's' or 't'
      place.epoch, place.number, place.since = epoch, number, now
    end
  end
  if own and not oldest then
    new = places[own]
  end
  local kept = { new }
  for index, place in ipairs(places) do
    if index ~= own and not (oldest and index == oldest.index and not oldest.is_open) then
      kept[#kept + 1] = place
    end
  end
  store(user, kept)
  return answer
end

local node = ARGV[4]
if not epoch then
  -- The node begins a new epoch first.
  return 0
end
if ARGV[5] ~= '' then
  redis.call('HSET', head, 'node:' .. node, ARGV[6] .. ' ' .. ARGV[5] .. ' ' .. whole(now - ARGV[7]))
  expire()
end

-- What becomes of a place: by the kind that is written, "e" ended, "f", "b", "l" as above, "c" cut off while it was silent,
-- "k" cut off where it is known to be.
local WRITE = {}
function WRITE.e()
  return nil
end
function WRITE.f(place)
  local _, at = followed(node)
  if place.kind ~= 't' or (at and at >= place.number) then
    place.kind = 'f'
  end
  return place
end
function WRITE.b(place, new)
  if (place.kind == 't' or place.kind == 's') and new.number <= place.number then
    place.kind = 's'
  else
    place.kind, place.epoch, place.number, place.since = 'b', new.epoch, new.number, new.since
  end
  return place
end
function WRITE.l(place, new, is_silent)
  if place.kind == 's' and new.number <= place.number then
    return nil
  end
  if place.kind == 't' and new.number <= place.number then
    if is_silent then
      return nil
    end
    place.kind, place.left = 'd', now
    return place
  end
  place.kind, place.epoch, place.number, place.since, place.left = 'l', new.epoch, new.number, new.since, now
  return place
end
function WRITE.c(place, new)
  return WRITE.l(place, new, true)
end
function WRITE.k(place)
  local of, at, since = followed(node)
  local new = place
  if place.kind == 'f' and at then
    new = { epoch = of, number = at, since = since }
  end
  return WRITE.l(place, new)
end

for i = 8, #ARGV, 6 do
  local user, socket, kind = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local new = { epoch = ARGV[i + 3], number = tonumber(ARGV[i + 4]), since = now - (tonumber(ARGV[i + 5]) or 0) }
  local places, kept, is_there = read(user), {}, false
  for _, place in ipairs(places) do
    if place.socket == socket then
      is_there = true
      place.node = node
      place = WRITE[kind](place, new)
    end
    kept[#kept + 1] = place
  end
  if not is_there and kind ~= 'e' and (new.number or kind == 'f') then
    local place = { socket = socket, node = node, kind = kind == 'c' and 'l' or kind, left = now }
    place.epoch, place.number, place.since = new.epoch, new.number or number, new.since
    kept[#kept + 1] = place
  end
  store(user, kept)
end

-- Forgets nodes and places that are too old, a few at a time.
if ARGV[5] ~= '' then
  local page = redis.call('HSCAN', head, redis.call('HGET', head, 'cursor') or '0', 'MATCH', '*:*', 'COUNT', SWEPT)
  redis.call('HSET', head, 'cursor', page[1])
  for i = 1, #page[2], 2 do
    local kind, name = page[2][i]:match('^(%a+):(.*)$')
    if kind == 'node' then
      local _, _, since = followed(name)
      if not since or since < now - keep then
        redis.call('HDEL', head, page[2][i])
      end
    elseif kind == 'user' then
      local places, kept = read(name), {}
      for _, place in ipairs(places) do
        local _, _, since = followed(place.node)
        if is_left(place) or (since and since >= now - keep) then
          kept[#kept + 1] = place
        end
      end
      -- Some that are too old may have been left out when they were read.
      local _, written = page[2][i + 1]:gsub('%S+', '')
      if #kept < written then
        store(name, kept)
      end
    end
  end
end
return 1
