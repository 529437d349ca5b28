-- One of several who come at the same time: the others find it held, until it is given back or its time is over.
insert into payments.idempotency_keys (scope, key, fingerprint, resource_id, created_at, locked_until, expires_at)
values ($1, $2, $3, $4, $5, $6, $6)
on conflict (scope, key) do update
   set fingerprint = excluded.fingerprint, locked_until = excluded.locked_until, expires_at = excluded.expires_at
 where idempotency_keys.status is null and idempotency_keys.locked_until <= $5
