-- Payments as decisions see them, with what else is stored beside them. $1 which.
select payment.id, payment.donation_id, payment.campaign_id, payment.amount_minor, payment.currency,
       payment.manual_capture, payment.status, payment.version, payment.provider_at, payment.intent_id,
       payment.client_secret, payment.captured_minor, payment.flag, payment.traceparent, payment.checks,
       payment.updated_at, payment.refunded_minor, payment.disputed_minor, payment.receipt_number, payment.check_at,
       coalesce((select json_agg(json_build_object('id', id, 'amount_minor', amount_minor, 'status', status)
                                 order by created_at, id)
                   from payments.refunds where payment_id = payment.id)::text, '[]') as refunds,
       coalesce((select json_agg(json_build_object('id', id, 'amount_minor', amount_minor, 'status', status)
                                 order by created_at, id)
                   from payments.disputes where payment_id = payment.id)::text, '[]') as disputes,
       donation.status as donation_status, donation.version as donation_version,
       donation.amount_minor as donation_amount_minor, donation.currency as donation_currency,
       donation.campaign_id as donation_campaign_id, donation.payment_id as donation_payment_id
  from payments.payment_transactions payment
  left join donations.donations donation on donation.id = payment.donation_id
 where payment.id = any($1)
 order by payment.id
