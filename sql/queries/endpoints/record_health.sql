-- How endpoints ($1) fared: a success ends a failure, 410 disables at once, and so does a failure of $5 seconds without a
-- success. Endpoints that are well are not written.
update notifications.webhook_endpoints endpoint
   set failing_since = case when item.succeeded then null else coalesce(endpoint.failing_since, $4) end,
       status = case when item.gone or (not item.succeeded and endpoint.failing_since <= $4 - $5::bigint * interval '1 second')
                     then 'DISABLED' else endpoint.status end,
       disabled_reason = case when item.gone then 'GONE'
                              when not item.succeeded and endpoint.failing_since <= $4 - $5::bigint * interval '1 second'
                              then 'FAILING' end,
       updated_at = $4
  from unnest($1::uuid[], $2::boolean[], $3::boolean[]) as item(id, succeeded, gone)
 where endpoint.id = item.id and endpoint.status = 'ENABLED'
   and (not item.succeeded or endpoint.failing_since is not null)
returning endpoint.id, endpoint.disabled_reason
