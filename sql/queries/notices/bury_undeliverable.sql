-- Webhooks that can go nowhere. To an endpoint that is disabled: an operator can replay them once it is enabled again. To
-- one that is no more: nobody ever can, so they are not left among the dead.
update notifications.notifications notice
   set status = case when exists (select from notifications.webhook_endpoints endpoint
                                   where endpoint.id = notice.endpoint_id) then 'DEAD' else 'DISCARDED' end,
       next_attempt_at = null,
       last_error = case when exists (select from notifications.webhook_endpoints endpoint
                                       where endpoint.id = notice.endpoint_id)
                         then 'the endpoint is disabled' else 'the endpoint was deleted' end
 where notice.claimed_by is null
   and notice.id = any(array(
       select waiting.id
         from notifications.notifications waiting
        where waiting.status = 'PENDING' and waiting.claimed_by is null and waiting.endpoint_id is not null
          and not exists (select from notifications.webhook_endpoints endpoint
                           where endpoint.id = waiting.endpoint_id and endpoint.status = 'ENABLED')
       union all
       select dead.id
         from notifications.notifications dead
        where dead.status = 'DEAD' and dead.endpoint_id is not null
          and not exists (select from notifications.webhook_endpoints endpoint where endpoint.id = dead.endpoint_id)))
