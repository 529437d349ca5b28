select * from (
    select id, at, kind, source, event_id, verdict, reason, from_status, to_status, version, traceparent,
           coalesce(lag(version) over (order by id), 0) as version_before
      from payments.payment_state_history
     where payment_id = $1
) as history
 where id > $2
 order by id
 limit $3
