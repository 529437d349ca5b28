-- The answers of creations whose keys were claimed with them.
update payments.idempotency_keys known
   set status = item.status, body = item.body, locked_until = null
  from unnest($1::text[], $2::text[], $3::smallint[], $4::text[]) as item(scope, key, status, body)
 where known.scope = item.scope and known.key = item.key and known.status is null
