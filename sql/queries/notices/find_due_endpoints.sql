-- Enabled endpoints with something due at $1.
select endpoint.id
  from notifications.webhook_endpoints endpoint
 where endpoint.status = 'ENABLED'
   and exists (select from notifications.notifications notice
                where notice.endpoint_id = endpoint.id and notice.status = 'PENDING' and notice.claimed_by is null
                  and notice.next_attempt_at <= $1)
