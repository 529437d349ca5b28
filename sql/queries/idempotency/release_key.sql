-- Nothing happened under it: the key is free again.
delete from payments.idempotency_keys where scope = $1 and key = $2 and status is null
