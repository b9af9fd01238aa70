-- Stores and publishes an event of a cache channel in one step, so that no node gets only one of the two.
-- KEYS  1 the stored event
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 message   4 milliseconds to store it
-- A Redis that is out of memory does not store it, but still publishes it.
local stored = redis.pcall('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call(ARGV[2], ARGV[1], ARGV[3])
return stored
