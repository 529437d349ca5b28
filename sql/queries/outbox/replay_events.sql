update donations.outbox_events set attempts = 0, next_attempt_at = null, dead_at = null
 where seq = any($1) and dead_at is not null
returning seq
