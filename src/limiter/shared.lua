-- A token bucket that all nodes take from. By Redis' own clock, so that the nodes' clocks need not agree.
-- KEYS  1 hash: the tokens that were there, and when, in seconds since 1970
-- ARGV  1 tokens per second, which is also what the bucket holds   2 tokens needed   3 tokens wanted, if there are more
-- Returns the tokens taken, which are none when there are fewer than needed, and the tokens left, as text.
local per_second, needed, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local left, at = tonumber(bucket[1] or ''), tonumber(bucket[2] or '')
local tokens = per_second
-- A time to come, or a debt, is not written by gema.
if left and at and left >= 0 and at >= 0 and at <= now + 1 then
  tokens = math.min(per_second, left + math.max(0, now - at) * per_second)
end
local taken = 0
if tokens >= needed then
  taken = math.min(wanted, math.floor(tokens))
end
tokens = string.format('%.6f', tokens - taken)
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', string.format('%.6f', now))
-- By then it is full, as one is that is not there.
redis.call('PEXPIRE', KEYS[1], 1000)
return { taken, tokens }
