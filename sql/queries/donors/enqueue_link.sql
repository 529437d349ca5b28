-- The mail $1 with a link to the donations of the address $2, if there are any, and fewer than $5 such mails in the hour
-- before $3. It goes to the address as the newest donation has it, and greets by that donation's name.
insert into notifications.notifications (id, event_id, kind, channel, recipient, donation_id, payment_id, amount_minor,
                                         currency, status, next_attempt_at, traceparent, created_at)
select $1::uuid, $1, 'DONOR_HISTORY', 'EMAIL', donation.donor_email, donation.id, donation.payment_id, donation.amount_minor,
       donation.currency, 'PENDING', $3::timestamptz, $4::text, $3
  from notifications.notifications notice
  join donations.donations donation on donation.id = notice.donation_id and lower(donation.donor_email) = lower($2::text)
 where lower(notice.recipient) = lower($2) and notice.kind = 'DONATION_RECEIVED' and notice.duplicate_of is null
   and $5::bigint > (select count(*) from notifications.notifications link
              where lower(link.recipient) = lower($2) and link.kind = 'DONOR_HISTORY'
                and link.created_at > $3::timestamptz - interval '1 hour')
 order by notice.donation_id desc
 limit 1
