-- Dead messages begin their schedule again. A webhook needs an endpoint that is enabled.
update notifications.notifications notice
   set status = 'PENDING', tries = 0, next_attempt_at = $2
 where notice.id = any($1) and notice.status = 'DEAD' and notice.claimed_by is null
   and (notice.endpoint_id is null
        or exists (select from notifications.webhook_endpoints endpoint
                    where endpoint.id = notice.endpoint_id and endpoint.status = 'ENABLED'))
returning notice.id
