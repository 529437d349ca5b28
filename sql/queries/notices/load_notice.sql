select id, event_id, kind, channel, recipient, endpoint_id, donation_id, payment_id, duplicate_of, status, attempts,
       next_attempt_at, provider_id, provider_status, provider_at, last_error, created_at, sent_at
  from notifications.notifications
 where id = $1
