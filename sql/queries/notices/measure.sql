-- Of each channel: what waits, what of it is due, since when; what is dead.
select channel, count(*) filter (where status = 'PENDING') as waiting,
       count(*) filter (where status = 'PENDING' and next_attempt_at <= $1) as due,
       min(next_attempt_at) filter (where status = 'PENDING' and claimed_by is null) as oldest,
       count(*) filter (where status = 'DEAD') as dead
  from notifications.notifications
 where status in ('PENDING', 'DEAD')
 group by channel
