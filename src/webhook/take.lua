-- Takes the next events of an endpoint for a node, unless another node delivers them. Events that were taken and never
-- confirmed come first.
-- KEYS  1 stream: the events that wait for the endpoint   2 the node that delivers them
-- ARGV  1 the node   2 events at most   3 milliseconds until another node may take over
-- Returns how many wait, and the events with their ids; nothing when another node delivers them.
local owner = redis.pcall('GET', KEYS[2])
if type(owner) == 'string' and owner ~= ARGV[1] then
  return false
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
local waiting = redis.call('TYPE', KEYS[1]).ok == 'stream' and redis.call('XLEN', KEYS[1]) or 0
if waiting == 0 then
  return { 0, {} }
end
-- Answers BUSYGROUP when the group is there already.
redis.pcall('XGROUP', 'CREATE', KEYS[1], 'gema', '0')
local left = redis.call('XAUTOCLAIM', KEYS[1], 'gema', ARGV[1], 0, '0', 'COUNT', ARGV[2])[2]
if #left > 0 then
  return { waiting, left }
end
local read = redis.call('XREADGROUP', 'GROUP', 'gema', ARGV[1], 'COUNT', ARGV[2], 'STREAMS', KEYS[1], '>')
return { waiting, read and read[1][2] or {} }
