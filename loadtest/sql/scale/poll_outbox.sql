-- What the relay asks for when it holds every partition; `claim_events.sql` of the server, with its arguments in place.
select seq, id, aggregate_id, event_type, body, traceparent, attempts, created_at
  from donations.outbox_events event
 where partition = any(array(select generate_series(0, 15)::smallint))
   and dead_at is null
   and (next_attempt_at is null or next_attempt_at <= now())
   and not exists (
       select 1 from donations.outbox_events older
        where older.attempts > 0
          and older.aggregate_id = event.aggregate_id
          and older.seq < event.seq
          and (older.dead_at is not null or older.next_attempt_at > now()))
 order by seq
 limit 500
