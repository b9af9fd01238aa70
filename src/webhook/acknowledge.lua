-- These events have been delivered, or given up, by the node that still has the endpoint; otherwise another node
-- delivers them.
-- KEYS  1 stream: what waits for the endpoint   2 the node that delivers it
-- ARGV  1 the node   2… the events' ids
-- Returns 1 when it still has the endpoint.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('XACK', KEYS[1], 'gema', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
return 1
