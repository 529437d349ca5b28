-- The same message once more, as a message of its own ($2) that says of which it is a duplicate. Only what went out, or
-- ended, can be sent again; what is on its way needs no help.
insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload, donation_id,
                                         payment_id, amount_minor, currency, duplicate_of, status, next_attempt_at,
                                         traceparent, created_at)
select $2, $2, kind, channel, recipient, endpoint_id, payload, donation_id, payment_id, amount_minor, currency,
       coalesce(duplicate_of, id), 'PENDING', $3, traceparent, $3
  from notifications.notifications
 where id = $1 and status <> 'PENDING'
