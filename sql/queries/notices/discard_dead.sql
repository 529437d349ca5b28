update notifications.notifications set status = 'DISCARDED'
 where id = any($1) and status = 'DEAD' and claimed_by is null
returning id
