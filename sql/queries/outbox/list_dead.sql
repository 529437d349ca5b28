-- Events that are set aside, oldest first. $1 the cursor: the last one seen.
select seq, id, aggregate_id, event_type, attempts, dead_at, last_error, created_at
  from donations.outbox_events
 where attempts > 0 and dead_at is not null and seq > $1
 order by seq
 limit $2
