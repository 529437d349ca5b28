-- The clones of this transaction, by number.
create temporary table clones (
    number bigint primary key,
    donation_id uuid not null,
    payment_id uuid not null,
    intent_id text not null,
    campaign_id uuid not null,
    donor_email text not null
) on commit drop
