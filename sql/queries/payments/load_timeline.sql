select id, at, kind, source, event_id, verdict, reason, from_status, to_status, version, traceparent
  from payments.payment_state_history
 where payment_id = $1 and id > $2
 order by id
 limit $3
