-- How endpoints ($1) fared: a success ends a failure, 410 disables at once, and so does a failure of $5 seconds without a
-- success. A failure that comes more than $6 seconds after the one before it, longer than any retry waits, is the first of
-- new ones: nothing was sent in between. Endpoints that are well are not written.
with fared as materialized (
    select endpoint.id, item.succeeded, item.gone,
           case when coalesce(endpoint.last_failed_at, endpoint.updated_at) >= $4::timestamptz - $6::bigint * interval '1 second'
                then coalesce(endpoint.failing_since, $4::timestamptz) else $4::timestamptz end as since
      from unnest($1::uuid[], $2::boolean[], $3::boolean[]) as item(id, succeeded, gone)
      join notifications.webhook_endpoints endpoint on endpoint.id = item.id
     where endpoint.status = 'ENABLED' and (not item.succeeded or endpoint.failing_since is not null)
     order by endpoint.id
       for update of endpoint
), judged as (
    select *, not succeeded and since <= $4::timestamptz - $5::bigint * interval '1 second' as given_up from fared
)
update notifications.webhook_endpoints endpoint
   set failing_since = case when not judged.succeeded then judged.since end,
       last_failed_at = case when judged.succeeded then endpoint.last_failed_at else $4::timestamptz end,
       status = case when judged.gone or judged.given_up then 'DISABLED' else endpoint.status end,
       disabled_reason = case when judged.gone then 'GONE' when judged.given_up then 'FAILING' end,
       updated_at = $4::timestamptz
  from judged
 where endpoint.id = judged.id
returning endpoint.id, endpoint.disabled_reason
