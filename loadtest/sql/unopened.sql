select count(*) from payments.payment_transactions where status = 'INITIATED' and intent_id is null
