-- An event for an endpoint: beyond the bound the oldest go.
-- KEYS  1 stream: what waits for the endpoint
-- ARGV  1 the event   2 events that may wait   3 seconds to keep what nobody asks for
-- Returns how many were dropped.
redis.call('XADD', KEYS[1], '*', 'event', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2])
