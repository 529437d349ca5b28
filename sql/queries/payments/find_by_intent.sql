select id from payments.payment_transactions where intent_id = $1
