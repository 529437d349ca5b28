-- Frees what processes ($2) that are gone were sending. Nobody knows whether those attempts reached the recipient: they
-- are UNKNOWN, unless the provider has told meanwhile.
with freed as (
    update notifications.notifications
       set claimed_by = null,
           next_attempt_at = case when status = 'PENDING' and tries < $4 then $3::timestamptz end,
           status = case when status = 'PENDING' and tries >= $4 then 'DEAD' else status end,
           last_error = 'the process ended in the middle of an attempt'
     where claimed_by = any($2) and channel = $1
    returning id, attempts, status
), log as (
    update notifications.delivery_logs log
       set outcome = case when freed.status in ('PENDING', 'DEAD') then 'UNKNOWN' else 'ACCEPTED' end,
           settled_at = $3, code = 'process', detail = 'the process ended in the middle of it'
      from freed
     where log.notification_id = freed.id and log.attempt = freed.attempts and log.outcome = 'STARTED'
)
select count(*) from freed where status in ('PENDING', 'DEAD')
