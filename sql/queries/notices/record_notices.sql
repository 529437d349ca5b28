-- What facts give rise to, once for each (event, kind, channel, recipient): a second delivery of a fact adds nothing.
-- A null recipient stands for the donor, whose address or phone is read here; without a phone there is no text message.
-- Nobody has verified that address: of kinds that anybody can set off ($14) it gets $15 in an hour, counted by donations
-- after $16 and by failures after $17; further ones are on record and go nowhere.
with item as materialized (
    select item.*,
           coalesce(item.given, case item.channel when 'SMS' then donation.donor_phone else donation.donor_email end)
               as recipient,
           item.kind = any($14::text[]) as is_bounded
      from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::uuid[],
                  $9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::timestamptz[])
           as item(id, event_id, kind, channel, given, endpoint_id, payload, donation_id, payment_id, amount_minor,
                   currency, traceparent, created_at)
      join donations.donations donation on donation.id = item.donation_id
     where item.given is not null or item.channel <> 'SMS' or donation.donor_phone is not null
), before as materialized (
    select asked.address, recent.count
      from (select distinct lower(recipient) as address from item where is_bounded) as asked
     cross join lateral (
           select count(*) as count
             from ((select from notifications.notifications notice
                     where lower(notice.recipient) = asked.address and notice.kind = 'DONATION_RECEIVED'
                       and notice.duplicate_of is null and notice.donation_id > $16::uuid
                     limit $15)
                   union all
                   (select from notifications.notifications notice
                     where lower(notice.recipient) = asked.address and notice.kind = 'PAYMENT_FAILED'
                       and notice.created_at > $17::timestamptz
                     limit $15)) as recent
     ) as recent
), counted as (
    select item.*,
           is_bounded
           and coalesce(before.count, 0) + row_number() over (partition by is_bounded, lower(item.recipient)
                                                              order by item.event_id, item.id) > $15::bigint
               as is_too_much
      from item
      left join before on before.address = lower(item.recipient)
)
insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload, donation_id,
                                         payment_id, amount_minor, currency, status, next_attempt_at, last_error,
                                         traceparent, created_at)
select id, event_id, kind, channel, recipient, endpoint_id, payload, donation_id, payment_id, amount_minor, currency,
       case when is_too_much then 'SUPPRESSED' else 'PENDING' end,
       case when not is_too_much then created_at end,
       case when is_too_much then 'more messages of this kind to this address within an hour than it gets' end,
       traceparent, created_at
  from counted
-- Always in the same order, so that two consumers of the same facts wait for each other and cannot deadlock.
 order by event_id, kind, channel, recipient
on conflict (event_id, kind, channel, recipient) do nothing
