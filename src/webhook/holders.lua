-- A node begins or ceases to have something: subscribers of a channel, connections of a user on it.
-- KEYS  1 set: the nodes that have it
-- ARGV  1 the node   2 "1" when it begins
-- Returns whether no other node has it, if that is news.
if ARGV[2] == '1' then
  return redis.call('SADD', KEYS[1], ARGV[1]) == 1 and redis.call('SCARD', KEYS[1]) == 1 and 1 or 0
end
return redis.call('SREM', KEYS[1], ARGV[1]) == 1 and redis.call('EXISTS', KEYS[1]) == 0 and 1 or 0
