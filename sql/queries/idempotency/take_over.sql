-- Takes over a key whose holder went away before it answered: one caller wins the next lease.
update payments.idempotency_keys
   set locked_until = $3::timestamptz + interval '30 seconds'
 where scope = $1 and key = $2 and status is null and locked_until <= $3
