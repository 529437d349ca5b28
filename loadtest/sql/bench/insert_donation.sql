insert into bench.donations (id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email, donor_phone,
                             anonymous, message, status, version, created_at, updated_at)
values ($1, $2, $3, $4, 'EUR', 'Load Donor', $5, null, false, null, 'PENDING', 1, now(), now())
