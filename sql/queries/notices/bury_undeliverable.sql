-- Webhooks to endpoints that are disabled, or no more: an operator can replay them once the endpoint is enabled again.
update notifications.notifications notice
   set status = 'DEAD', next_attempt_at = null, last_error = 'the endpoint is disabled'
 where notice.status = 'PENDING' and notice.claimed_by is null and notice.endpoint_id is not null
   and not exists (select from notifications.webhook_endpoints endpoint
                    where endpoint.id = notice.endpoint_id and endpoint.status = 'ENABLED')
