delete from payments.parked_events where event_id = $1
