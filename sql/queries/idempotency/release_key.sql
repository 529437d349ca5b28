-- Nothing happened under it: the key is free again, unless it is somebody else's by now.
delete from payments.idempotency_keys where scope = $1 and key = $2 and status is null and fingerprint = $3
