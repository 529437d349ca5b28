-- The public wall: paid donations, newest first, after the one that the cursor names, each with what is given: not what went
-- back, nor what a dispute withholds. Anonymous donors' names stay here.
select donation.id, payment.captured_minor - payment.refunded_minor - payment.disputed_minor as amount_minor,
       donation.currency, donation.anonymous, case when donation.anonymous then null else donation.donor_name end as donor_name,
       donation.message, donation.created_at
  from donations.donations donation
  join payments.payment_transactions payment on payment.id = donation.payment_id
 where donation.campaign_id = $1
   and donation.status = 'COMPLETED'
   and donation.id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
   and payment.captured_minor - payment.refunded_minor - payment.disputed_minor > 0
 order by donation.id desc
 limit $3
