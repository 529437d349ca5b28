-- Dead messages begin their schedule again: those that $1 names, or the oldest; at most $3. A webhook needs an endpoint
-- that is enabled.
update notifications.notifications notice
   set status = 'PENDING', tries = 0, next_attempt_at = $2
 where notice.id = any(array(
       select dead.id
         from notifications.notifications dead
        where ($1::uuid[] is null or dead.id = any($1)) and dead.status = 'DEAD' and dead.claimed_by is null
          and (dead.endpoint_id is null
               or exists (select from notifications.webhook_endpoints endpoint
                           where endpoint.id = dead.endpoint_id and endpoint.status = 'ENABLED'))
        order by dead.id
        limit $3
          for update of dead skip locked))
returning notice.id
