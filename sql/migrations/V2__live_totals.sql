-- What a live read of the totals begins with: a campaign's sums, and the snapshot that saw their lines. A read adds the
-- lines that the snapshot did not see. Whoever finds many of those writes the sums down anew.
create table payments.ledger_checkpoints (
    campaign_id uuid primary key,
    raised_minor bigint not null,
    donation_count bigint not null,
    donor_count bigint not null,
    version bigint not null,
    snapshot pg_snapshot not null,
    taken_at timestamptz not null
) with (fillfactor = 50);

-- The public wall. A donation that is not paid is in no index but its key's.
create index donations_wall on donations.donations (campaign_id, id) where status = 'COMPLETED';
