select fingerprint, resource_id, status, body, locked_until, expires_at
  from payments.idempotency_keys
 where scope = $1 and key = $2
