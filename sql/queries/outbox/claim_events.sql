-- Due events of the partitions that we hold, oldest first. An event that failed holds back its own payment only.
select seq, id, aggregate_id, event_type, body, traceparent, attempts, created_at
  from donations.outbox_events event
 where partition = any($1)
   and dead_at is null
   and (next_attempt_at is null or next_attempt_at <= $2)
   and not exists (
       select 1 from donations.outbox_events older
        where older.attempts > 0
          and older.aggregate_id = event.aggregate_id
          and older.seq < event.seq
          and (older.dead_at is not null or older.next_attempt_at > $2))
 order by seq
 limit $3
   for update of event skip locked
