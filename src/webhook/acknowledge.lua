-- Removes events that a node has delivered or given up, unless another node has taken over and delivers them again.
-- KEYS  1 stream: the events that wait for the endpoint   2 the node that delivers them
-- ARGV  1 the node   2… the events' ids
-- Returns 1 when it still has the endpoint.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('XACK', KEYS[1], 'gema', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
return 1
