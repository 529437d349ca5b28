delete from payments.idempotency_keys
 where (scope, key) in (
       select scope, key from payments.idempotency_keys where expires_at < $1 order by expires_at limit $2
          for update skip locked)
