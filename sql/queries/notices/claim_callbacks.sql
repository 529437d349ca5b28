-- Due webhooks of the endpoints $1, of each at most so many as $2 says, claimed for the process $3, each with an attempt
-- that is written down before anything is sent. One endpoint's queue never stands before another's.
with due as materialized (
    select picked.id
      from unnest($1::uuid[], $2::bigint[]) as lane(endpoint_id, room)
     cross join lateral (
           select notice.id
             from notifications.notifications notice
            where notice.endpoint_id = lane.endpoint_id and notice.status = 'PENDING' and notice.claimed_by is null
              and notice.next_attempt_at <= $4
            order by notice.next_attempt_at
            limit lane.room
              for update skip locked
     ) as picked
), claimed as (
    update notifications.notifications notice
       set claimed_by = $3, attempts = attempts + 1, tries = tries + 1
     where notice.id = any(array(select id from due))
    returning notice.*
), started as (
    insert into notifications.delivery_logs (notification_id, attempt, at, outcome)
    select id, attempts, $4, 'STARTED' from claimed
)
select claimed.id, claimed.kind, claimed.attempts, claimed.tries, claimed.endpoint_id, claimed.payload,
       -- Sent once more, it is the same message to whoever drops what it has seen.
       coalesce(claimed.duplicate_of, claimed.id) as message_id,
       claimed.traceparent, claimed.created_at, endpoint.url, endpoint.secret,
       case when endpoint.previous_until > $4 then endpoint.previous_secret end as previous_secret
  from claimed
  left join notifications.webhook_endpoints endpoint on endpoint.id = claimed.endpoint_id
