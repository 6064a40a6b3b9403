-- Have what a subject has spent under other tenants counted under this one. What is written is the whole of it, so that
-- it may be written again at any time.
--
-- KEYS[1]  its buckets and money, as in numbers.lua
-- ARGV[1]  six numbers of 8 bytes: day, spent in it, month, spent in it, week, spent in it
-- returns  'OK'
redis.call('HSET', KEYS[1], 'c', ARGV[1])
redis.call('PEXPIRE', KEYS[1], '3456000000', 'NX') -- 40 days, as in ledger.lua
return 'OK'
