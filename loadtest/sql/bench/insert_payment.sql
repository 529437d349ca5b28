insert into bench.payment_transactions (id, donation_id, campaign_id, donor_key, amount_minor, currency, manual_capture,
                                        status, version, traceparent, check_at, created_at, updated_at)
values ($1, $2, $3, md5($4)::uuid, $5, 'EUR', false, 'INITIATED', 1, null, now() + interval '15 seconds', now(), now())
