-- Who is enabled again begins with a clean record; who is disabled by an operator says so.
update notifications.webhook_endpoints
   set url = $2,
       description = $3,
       event_types = $4,
       status = case when $5 then 'ENABLED' else 'DISABLED' end,
       disabled_reason = case when $5 then null else coalesce(disabled_reason, 'OPERATOR') end,
       failing_since = case when $5 and status = 'DISABLED' then null else failing_since end,
       updated_at = $6
 where id = $1
