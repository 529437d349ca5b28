select payment_id, move_id, at, kind, source, event_id, verdict, reason, from_status, to_status, version,
       provider_created, traceparent, detail::text as detail
  from payments.payment_state_history
 where payment_id = any($1)
 order by payment_id, id
