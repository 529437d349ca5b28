-- Until $3 both secrets sign.
update notifications.webhook_endpoints
   set previous_secret = secret, previous_until = $3, secret = $2, updated_at = $4
 where id = $1
returning id, url, description, event_types, status, disabled_reason, failing_since, previous_until,
          created_at, updated_at
