-- A node takes the next events for an endpoint, unless another node is at it: what was taken before and never
-- delivered comes first.
-- KEYS  1 stream: what waits for the endpoint   2 the node that delivers it
-- ARGV  1 the node   2 events at most   3 milliseconds until another node may take over
-- Returns how many wait, and the events with their ids; nothing when another node is at it.
local owner = redis.pcall('GET', KEYS[2])
if type(owner) == 'string' and owner ~= ARGV[1] then
  return false
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
local waiting = redis.call('TYPE', KEYS[1]).ok == 'stream' and redis.call('XLEN', KEYS[1]) or 0
if waiting == 0 then
  return { 0, {} }
end
-- Says BUSYGROUP when it is there already.
redis.pcall('XGROUP', 'CREATE', KEYS[1], 'gema', '0')
local left = redis.call('XAUTOCLAIM', KEYS[1], 'gema', ARGV[1], 0, '0', 'COUNT', ARGV[2])[2]
if #left > 0 then
  return { waiting, left }
end
local read = redis.call('XREADGROUP', 'GROUP', 'gema', ARGV[1], 'COUNT', ARGV[2], 'STREAMS', KEYS[1], '>')
return { waiting, read and read[1][2] or {} }
