-- Writes a campaign's sums down with the snapshot of this very statement, reckoned from the checkpoint before. Two at once
-- are two true pairs of sums and snapshot; the newer one stays.
with base as (
    select raised_minor, donation_count, donor_count, version, snapshot
      from payments.ledger_checkpoints
     where campaign_id = $1
), unseen as (
    select coalesce(sum(entry.amount_minor), 0)::bigint as raised_minor,
           coalesce(sum(entry.donations_delta), 0)::bigint as donation_count,
           coalesce(sum(entry.donors_delta), 0)::bigint as donor_count,
           count(*) as version
      from payments.ledger_entries entry
     where entry.campaign_id = $1
       and entry.xact_id >= coalesce((select pg_snapshot_xmin(snapshot) from base), '0'::xid8)
       and not coalesce(pg_visible_in_snapshot(entry.xact_id, (select snapshot from base)), false)
)
insert into payments.ledger_checkpoints as known (campaign_id, raised_minor, donation_count, donor_count, version,
                                                  snapshot, taken_at)
select $1::uuid, coalesce(base.raised_minor, 0) + unseen.raised_minor,
       coalesce(base.donation_count, 0) + unseen.donation_count,
       coalesce(base.donor_count, 0) + unseen.donor_count,
       coalesce(base.version, 0) + unseen.version, pg_current_snapshot(), $2
  from unseen left join base on true
on conflict (campaign_id) do update
   set raised_minor = excluded.raised_minor, donation_count = excluded.donation_count,
       donor_count = excluded.donor_count, version = excluded.version, snapshot = excluded.snapshot,
       taken_at = excluded.taken_at
 where known.version <= excluded.version
