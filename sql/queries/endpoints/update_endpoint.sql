-- What is null stays as it is. Who is enabled again begins with a clean record; who is disabled by an operator says so.
update notifications.webhook_endpoints
   set url = coalesce($2, url),
       description = nullif(coalesce($3, description), ''),
       event_types = coalesce($4, event_types),
       status = coalesce($5, status),
       disabled_reason = case coalesce($5, status) when 'DISABLED' then coalesce(disabled_reason, 'OPERATOR') end,
       failing_since = case when $5 = 'ENABLED' and status = 'DISABLED' then null else failing_since end,
       updated_at = $6
 where id = $1
returning id, url, description, event_types, status, disabled_reason, failing_since, previous_until,
          created_at, updated_at
