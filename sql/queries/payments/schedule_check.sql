update payments.payment_transactions set check_at = $2, checks = $3 where id = $1 and version = $4
