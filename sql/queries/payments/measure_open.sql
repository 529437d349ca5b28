-- Payments that are not at their end, which are those with a check before them: how many, by status; and since when the oldest
-- has been opened with the provider without a word from it: nobody knows whether it has an intent for this payment.
select status, count(*) as payments, min(created_at) filter (where status = 'INITIATED' and intent_id is null) as oldest_unknown
  from payments.payment_transactions
 where check_at is not null
 group by status
