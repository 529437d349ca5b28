-- Newest first; identifiers are UUIDv7, so their order is the order of creation. $1 the cursor: the last one seen.
select id, event_id, kind, channel, recipient, endpoint_id, donation_id, payment_id, duplicate_of, status, attempts,
       next_attempt_at, provider_id, provider_status, provider_at, last_error, created_at, sent_at
  from notifications.notifications
 where ($1::uuid is null or id < $1)
   and ($2::text is null or status = $2)
   and ($3::text is null or channel = $3)
   and ($4::text is null or kind = $4)
   and ($5::uuid is null or donation_id = $5)
   and ($6::uuid is null or payment_id = $6)
   and ($7::text is null or lower(recipient) = lower($7))
   and ($8::uuid is null or endpoint_id = $8)
 order by id desc
 limit $9
