-- Opened with the provider, without a word from it yet: nobody knows whether it has an intent for this payment.
select min(created_at) as oldest
  from payments.payment_transactions
 where check_at is not null and status = 'INITIATED' and intent_id is null
