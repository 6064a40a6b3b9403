-- All tenants that were ever seen.
--
-- KEYS[1]  tenants (set)
-- returns  {tenant, ...}
return redis.call('SMEMBERS', KEYS[1])
