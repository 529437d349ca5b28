-- Events that are set aside are due again: those that $1 names, or the oldest; at most $2.
update donations.outbox_events
   set attempts = 0, next_attempt_at = null, dead_at = null
 where seq = any(array(
       select seq
         from donations.outbox_events
        where ($1::bigint[] is null or seq = any($1)) and attempts > 0 and dead_at is not null
        order by seq
        limit $2
          for update skip locked))
returning seq
