-- Numbers of processes that hold claims of the channel $1 and whose lock nobody holds: they ended, or lost their session.
select number
  from (select distinct claimed_by as number
          from notifications.notifications
         where claimed_by is not null and claimed_by <> $2 and channel = $1) as holder
 where pg_try_advisory_xact_lock_shared(1128678256, number)
