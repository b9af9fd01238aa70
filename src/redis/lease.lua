-- Renews the lease of a node, by Redis' own clock, so that the nodes' clocks need not agree.
-- KEYS  1 sorted set: nodes by the end of their lease, in milliseconds since 1970
-- ARGV  1 the node   2 how long its lease is, in milliseconds
-- Returns 1 when the node was not known, the nodes that live, and those whose lease has ended.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local LEASE_MAX = 3600 * 1000
-- No node takes so long a lease: other software has written it, or Redis' clock was ahead. A node that lives takes a
-- new one.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('%.0f', now + LEASE_MAX), '+inf')
local added = redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return {
  added,
  redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf'),
  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now)),
}
