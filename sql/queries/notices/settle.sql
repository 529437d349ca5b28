-- One attempt's outcome: the log row and the message's new state, together or not at all.
with log as (
    insert into notifications.delivery_logs (notification_id, attempt, at, outcome, code, detail, duration_ms, provider_id)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (notification_id, attempt) do nothing
)
update notifications.notifications
   set status = $9, next_attempt_at = $10, provider_id = coalesce($8, provider_id), last_error = $6,
       sent_at = case when $9 = 'SENT' then $3 else sent_at end
 where id = $1 and status = 'PENDING'
