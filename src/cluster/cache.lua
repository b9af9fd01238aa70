-- An event of a cache channel: remembered and told in one step, so that nobody gets only one of them.
-- KEYS  1 the remembered event
-- ARGV  1 topic   2 PUBLISH or SPUBLISH   3 message   4 milliseconds to remember it
-- A Redis that is out of memory cannot remember it; it is told all the same.
local remembered = redis.pcall('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call(ARGV[2], ARGV[1], ARGV[3])
return remembered
