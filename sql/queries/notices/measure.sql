-- Of each channel: what waits, what of it is due, since when; what is dead. Each part has the predicate of one partial
-- index, so that what was sent is never looked at: this runs at every scrape.
with found as (
    select channel, count(*) as waiting, count(*) filter (where next_attempt_at <= $1) as due,
           min(next_attempt_at) as oldest, 0 as dead
      from notifications.notifications
     where status = 'PENDING' and claimed_by is null and endpoint_id is null
     group by channel
    union all
    select 'WEBHOOK', count(*), count(*) filter (where next_attempt_at <= $1), min(next_attempt_at), 0
      from notifications.notifications
     where status = 'PENDING' and claimed_by is null and endpoint_id is not null
    union all
    select channel, count(*), count(*) filter (where next_attempt_at <= $1), null, 0
      from notifications.notifications
     where claimed_by is not null and status = 'PENDING'
     group by channel
    union all
    select channel, 0, 0, null, count(*)
      from notifications.notifications
     where status = 'DEAD'
     group by channel
)
select channel, sum(waiting)::bigint as waiting, sum(due)::bigint as due, min(oldest) as oldest, sum(dead)::bigint as dead
  from found
 group by channel
