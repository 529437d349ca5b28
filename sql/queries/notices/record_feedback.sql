-- What a provider says became of a message, found by our identifier ($2) or by one of the provider's ($3). Statuses only move
-- forward: a late "sent" changes nothing. A message that was never tried is not believed.
update notifications.notifications
   set status = $4,
       provider_status = $5,
       provider_at = $6,
       next_attempt_at = null,
       sent_at = coalesce(sent_at, $6),
       last_error = case when $4 = 'UNDELIVERED' then $7 else last_error end
 where channel = $1
   and (id = $2 or provider_id = any($3))
   and attempts > 0
   and array_position(array['PENDING', 'DEAD', 'SENT', 'DELIVERED', 'UNDELIVERED'], status)
     < array_position(array['PENDING', 'DEAD', 'SENT', 'DELIVERED', 'UNDELIVERED'], $4)
