-- Donations made with the address $1, newest first, after the one that the cursor $2 names. Every donation has one
-- thank-you message, by which it is found (index notifications_donor); the donation itself has the last word on whose it is.
select donation.id, donation.campaign_id, campaign.slug, campaign.title, donation.amount_minor, donation.currency,
       donation.status, payment.receipt_number, payment.refunded_minor, donation.created_at, donation.updated_at
  from notifications.notifications notice
  join donations.donations donation on donation.id = notice.donation_id and lower(donation.donor_email) = lower($1)
  join donations.campaigns campaign on campaign.id = donation.campaign_id
  join payments.payment_transactions payment on payment.id = donation.payment_id
 where lower(notice.recipient) = lower($1) and notice.kind = 'DONATION_RECEIVED' and notice.duplicate_of is null
   and notice.donation_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
 order by notice.donation_id desc
 limit $3
