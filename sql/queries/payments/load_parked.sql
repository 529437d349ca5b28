select event_id, body from payments.parked_events
 where intent_id = $1 or payment_id = $2
 order by provider_created, event_id
 limit $3
