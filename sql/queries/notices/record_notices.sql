-- What facts give rise to, once for each (event, kind, channel, recipient): a second delivery of a fact adds nothing.
-- A null recipient stands for the donor, whose address or phone is read here; without a phone there is no text message.
insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload, donation_id,
                                         payment_id, amount_minor, currency, status, next_attempt_at, traceparent,
                                         created_at)
select item.id, item.event_id, item.kind, item.channel,
       coalesce(item.recipient, case item.channel when 'SMS' then donation.donor_phone else donation.donor_email end),
       item.endpoint_id, item.payload, item.donation_id, item.payment_id, item.amount_minor, item.currency, 'PENDING',
       item.created_at, item.traceparent, item.created_at
  from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::uuid[],
              $9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::timestamptz[])
       as item(id, event_id, kind, channel, recipient, endpoint_id, payload, donation_id, payment_id, amount_minor,
               currency, traceparent, created_at)
  join donations.donations donation on donation.id = item.donation_id
 where item.recipient is not null or item.channel <> 'SMS' or donation.donor_phone is not null
-- Always in the same order, so that two consumers of the same facts wait for each other and cannot deadlock.
 order by item.event_id, item.kind, item.channel, item.recipient
on conflict (event_id, kind, channel, recipient) do nothing
