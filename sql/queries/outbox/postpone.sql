update donations.outbox_events event
   set attempts = attempts + 1, next_attempt_at = item.next_attempt_at, dead_at = item.dead_at, last_error = item.error
  from unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::text[]) as item(seq, next_attempt_at, dead_at, error)
 where event.seq = item.seq
