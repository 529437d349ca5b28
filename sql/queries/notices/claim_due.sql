-- Due messages, each leased for a while by moving its next attempt: a crash loses none, a second process takes others.
with due as (
    select id from notifications.notifications
     where status = 'PENDING' and channel = $1 and next_attempt_at <= $2
     order by next_attempt_at
     limit $4
       for update skip locked
), leased as (
    update notifications.notifications notice
       set next_attempt_at = $2::timestamptz + $3::bigint * interval '1 second', attempts = attempts + 1
      from due
     where notice.id = due.id
    returning notice.*
)
select leased.id, leased.kind, leased.recipient, leased.attempts, leased.amount_minor, leased.currency,
       leased.donation_id, leased.traceparent, donation.donor_name, campaign.title as campaign_title,
       payment.receipt_number, payment.intent_id
  from leased
  join donations.donations donation on donation.id = leased.donation_id
  join donations.campaigns campaign on campaign.id = donation.campaign_id
  join payments.payment_transactions payment on payment.id = leased.payment_id
