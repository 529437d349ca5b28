-- The stored answers to the events that moved the payment $1, once for each clone.
insert into payments.idempotency_keys (scope, key, fingerprint, resource_id, status, body, created_at, locked_until,
                                       expires_at)
select k.scope, k.key || '_' || clone.number, k.fingerprint, k.resource_id, k.status,
       replace(k.body, $1::uuid::text, clone.payment_id::text), k.created_at, k.locked_until, k.expires_at
  from clones clone, payments.idempotency_keys k
 where k.scope = 'stripe'
   and k.key in (select event_id from payments.payment_state_history where payment_id = $1 and verdict = 'applied')
 order by clone.number
