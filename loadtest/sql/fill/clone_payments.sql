-- The payment $1, once for each clone, each with a receipt number of its own.
insert into payments.payment_transactions (id, donation_id, campaign_id, donor_key, amount_minor, currency, manual_capture,
                                           provider, intent_id, client_secret, status, version, provider_at,
                                           captured_minor, refunded_minor, disputed_minor, receipt_number, flag,
                                           traceparent, checks, check_at, created_at, updated_at)
select clone.payment_id, clone.donation_id, clone.campaign_id, md5(lower(clone.donor_email))::uuid, p.amount_minor,
       p.currency, p.manual_capture, p.provider, clone.intent_id, clone.intent_id || '_secret', p.status, p.version,
       p.provider_at, p.captured_minor, p.refunded_minor, p.disputed_minor, nextval('payments.receipt_numbers'), p.flag,
       p.traceparent, p.checks, null, p.created_at, p.updated_at
  from clones clone, payments.payment_transactions p
 where p.id = $1
