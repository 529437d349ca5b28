-- Payments that have appeared since an event for them was parked, and did not take it up: a crash came in between.
select payment.id
  from payments.parked_events event
  join payments.payment_transactions payment on payment.intent_id = event.intent_id
 where event.parked_at < $1
union
select payment.id
  from payments.parked_events event
  join payments.payment_transactions payment on payment.id = event.payment_id
 where event.parked_at < $1
limit $2
