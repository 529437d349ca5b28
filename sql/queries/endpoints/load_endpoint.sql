select id, url, description, event_types, status, disabled_reason, failing_since, previous_until, created_at, updated_at
  from notifications.webhook_endpoints
 where id = $1
