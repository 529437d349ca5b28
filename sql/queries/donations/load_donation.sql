select donation.id, donation.campaign_id, donation.amount_minor, donation.currency, donation.status, donation.version,
       donation.payment_id, donation.created_at, donation.updated_at, donation.anonymous, donation.message,
       payment.status as payment_status, payment.provider, payment.intent_id, payment.client_secret,
       payment.receipt_number
  from donations.donations donation
  join payments.payment_transactions payment on payment.id = donation.payment_id
 where donation.id = $1
