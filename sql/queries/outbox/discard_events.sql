-- What is discarded is given back, to be shown or kept by whoever discards it.
delete from donations.outbox_events where seq = any($1) and dead_at is not null
returning seq, body
