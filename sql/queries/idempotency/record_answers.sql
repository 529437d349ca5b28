-- The answers to events that touch no payment of ours.
insert into payments.idempotency_keys (scope, key, fingerprint, status, body, created_at, expires_at)
select scope, key, fingerprint, status, body, created_at, expires_at
  from unnest($1::text[], $2::text[], $3::bytea[], $4::smallint[], $5::text[], $6::timestamptz[], $7::timestamptz[])
       as item(scope, key, fingerprint, status, body, created_at, expires_at)
 order by scope, key
on conflict do nothing
