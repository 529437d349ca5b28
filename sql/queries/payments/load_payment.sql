select payment.id, payment.donation_id, payment.campaign_id, payment.amount_minor, payment.currency,
       payment.manual_capture, payment.status, payment.version, payment.provider_at, payment.intent_id,
       payment.client_secret, payment.captured_minor, payment.flag, payment.traceparent, payment.checks, payment.updated_at,
       coalesce((select json_agg(json_build_object('id', id, 'amount_minor', amount_minor, 'status', status)
                                 order by created_at, id)
                   from payments.refunds where payment_id = payment.id)::text, '[]') as refunds,
       coalesce((select json_agg(json_build_object('id', id, 'amount_minor', amount_minor, 'status', status)
                                 order by created_at, id)
                   from payments.disputes where payment_id = payment.id)::text, '[]') as disputes
  from payments.payment_transactions payment
 where payment.id = $1
