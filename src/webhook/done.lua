-- These events have been delivered, or given up.
-- KEYS  1 stream: what waits for the endpoint
-- ARGV  their ids
redis.call('XACK', KEYS[1], 'gema', unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV))
