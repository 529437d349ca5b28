-- Of one message, oldest first.
select attempt, at, settled_at, outcome, code, detail, duration_ms, provider_id
  from notifications.delivery_logs
 where notification_id = $1
 order by attempt
 limit $2
