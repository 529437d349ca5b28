insert into payments.parked_events (event_id, intent_id, payment_id, kind, provider_created, body, parked_at)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (event_id) do nothing
