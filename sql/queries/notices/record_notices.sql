-- What facts give rise to, once for each (event, kind, channel, recipient): a second delivery of a fact adds nothing.
-- A null recipient stands for the donor, whose address is read here.
insert into notifications.notifications (id, event_id, kind, channel, recipient, donation_id, payment_id, amount_minor,
                                         currency, status, next_attempt_at, traceparent, created_at)
select item.id, item.event_id, item.kind, 'EMAIL', coalesce(item.recipient, donation.donor_email), item.donation_id,
       item.payment_id, item.amount_minor, item.currency, 'PENDING', item.created_at, item.traceparent, item.created_at
  from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::uuid[], $7::bigint[], $8::text[],
              $9::text[], $10::timestamptz[])
       as item(id, event_id, kind, recipient, donation_id, payment_id, amount_minor, currency, traceparent, created_at)
  join donations.donations donation on donation.id = item.donation_id
on conflict (event_id, kind, channel, recipient) do nothing
