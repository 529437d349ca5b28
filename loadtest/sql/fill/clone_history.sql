-- The history of the payment $1, once for each clone; what each verdict was decided upon names the clone.
insert into payments.payment_state_history (payment_id, move_id, at, kind, source, event_id, verdict, reason, from_status,
                                            to_status, version, provider_created, traceparent, detail)
select clone.payment_id, h.move_id, h.at, h.kind, h.source, h.event_id || '_' || clone.number, h.verdict, h.reason,
       h.from_status, h.to_status, h.version, h.provider_created, h.traceparent,
       replace(replace(h.detail::text, p.id::text, clone.payment_id::text), p.intent_id, clone.intent_id)::jsonb
  from clones clone, payments.payment_state_history h
  join payments.payment_transactions p on p.id = h.payment_id
 where h.payment_id = $1
 order by clone.number, h.id
