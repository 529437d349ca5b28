-- A webhook that tests an endpoint, tried once.
insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload, status,
                                         next_attempt_at, traceparent, created_at)
select $2, $2, $3, 'WEBHOOK', endpoint.id::text, endpoint.id, $4, 'PENDING', $5, $6, $5
  from notifications.webhook_endpoints endpoint
 where endpoint.id = $1 and endpoint.status = 'ENABLED'
returning id, event_id, kind, channel, recipient, endpoint_id, donation_id, payment_id, duplicate_of, status, attempts,
          next_attempt_at, provider_id, provider_status, provider_at, last_error, created_at, sent_at
