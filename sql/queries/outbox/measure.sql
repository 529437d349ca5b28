-- What waits, and since when the oldest could have left: an event that was put off could not before its time, and one that an
-- older one of its payment holds back could not at all. Places rise with time, so the first fresh event is the oldest.
select count(*) as waiting, count(dead_at) as dead,
       least((select fresh.created_at
                from donations.outbox_events fresh
               where fresh.attempts = 0
                 and not exists (
                     select 1 from donations.outbox_events older
                      where older.attempts > 0
                        and older.aggregate_id = fresh.aggregate_id
                        and older.seq < fresh.seq)
               order by fresh.seq
               limit 1),
             (select min(coalesce(failed.next_attempt_at, failed.created_at))
                from donations.outbox_events failed
               where failed.attempts > 0 and failed.dead_at is null
                 and not exists (
                     select 1 from donations.outbox_events older
                      where older.attempts > 0
                        and older.aggregate_id = failed.aggregate_id
                        and older.seq < failed.seq))) as oldest
  from donations.outbox_events
