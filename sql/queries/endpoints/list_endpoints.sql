-- All of them: they are few, by the bound in create_endpoint.sql. Never their secrets.
select id, url, description, event_types, status, disabled_reason, failing_since, previous_until, created_at, updated_at
  from notifications.webhook_endpoints
 order by id
