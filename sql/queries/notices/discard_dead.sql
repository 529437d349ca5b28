-- Dead messages are given up for good: those that $1 names, or the oldest; at most $2.
update notifications.notifications
   set status = 'DISCARDED'
 where id = any(array(
       select id
         from notifications.notifications
        where ($1::uuid[] is null or id = any($1)) and status = 'DEAD' and claimed_by is null
        order by id
        limit $2
          for update skip locked))
returning id
