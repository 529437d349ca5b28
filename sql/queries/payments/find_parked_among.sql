-- Which of these payments, whose intents have just been committed, have events that were parked for want of them.
select item.payment_id
  from unnest($1::uuid[], $2::text[]) as item(payment_id, intent_id)
 where exists (select from payments.parked_events event where event.intent_id = item.intent_id)
    or exists (select from payments.parked_events event where event.payment_id = item.payment_id)
