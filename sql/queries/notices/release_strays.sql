-- Frees messages that carry our own number ($2) and that we are not sending ($3): the claim was committed, its answer was
-- lost. Nothing was sent, so the try is given back and the attempt is on record as one that never began.
with freed as (
    update notifications.notifications
       set claimed_by = null, tries = tries - 1
     where claimed_by = $2 and channel = $1 and not id = any($3)
    returning id, attempts
), log as (
    update notifications.delivery_logs log
       set outcome = 'TRANSIENT', settled_at = $4, code = 'claim', detail = 'never begun: the answer to the claim was lost'
      from freed
     where log.notification_id = freed.id and log.attempt = freed.attempts and log.outcome = 'STARTED'
)
select count(*) from freed
