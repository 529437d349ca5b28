-- What the registry asks for every two seconds, without taking it; see `claim_due_checks.sql` of the server.
select id from payments.payment_transactions where check_at <= now() order by check_at limit 200
