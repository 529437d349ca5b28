\set amount random(500, 10000)
\set donor random(1, 1000000000)
begin;
insert into bench.donations (id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email, donor_phone,
                             anonymous, message, status, version, created_at, updated_at)
values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), :amount, 'EUR', 'Load Donor',
        'donor-' || :donor || '@load.invalid', null, false, null, 'PENDING', 1, now(), now());
insert into bench.payment_transactions (id, donation_id, campaign_id, donor_key, amount_minor, currency, manual_capture,
                                        status, version, traceparent, check_at, created_at, updated_at)
values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), :amount, 'EUR', false, 'INITIATED',
        1, null, now() + interval '15 seconds', now(), now());
commit;
