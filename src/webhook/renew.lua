-- Renews a node's lease of an endpoint, unless another node has taken over.
-- KEYS  1 the node that delivers its events
-- ARGV  1 the node   2 milliseconds until another node may take over; 0 when it may at once
-- Returns 1 when it may go on.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
