delete from donations.outbox_events where seq = any($1)
