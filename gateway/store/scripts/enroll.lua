-- Note that tenants exist, for those who go through all of them.
--
-- KEYS[1]  tenants (set)
-- ARGV     tenants ...
-- returns  how many were new
return redis.call('SADD', KEYS[1], unpack(ARGV))
