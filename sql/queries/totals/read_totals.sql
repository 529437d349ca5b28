-- Levels 2 and 3: the newest sums that are known (the view's, or the ledger's last checkpoint), plus the lines that their
-- snapshot did not see; without either, all lines. One statement, one snapshot: exact. No row where there is no such campaign.
with base as (
    select known.raised_minor, known.donation_count, known.donor_count, known.version, marker.snapshot, 'view' as source
      from payments.campaign_totals known, payments.campaign_totals marker
     where known.campaign_id = $1
       and marker.campaign_id = '00000000-0000-0000-0000-000000000000'
    union all
    select raised_minor, donation_count, donor_count, version, snapshot, 'realtime'
      from payments.ledger_checkpoints
     where campaign_id = $1
     order by version desc, source desc
     limit 1
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
select coalesce(base.raised_minor, 0) + unseen.raised_minor as raised_minor,
       coalesce(base.donation_count, 0) + unseen.donation_count as donation_count,
       coalesce(base.donor_count, 0) + unseen.donor_count as donor_count,
       coalesce(base.version, 0) + unseen.version as version,
       coalesce(base.source, 'realtime') as source,
       unseen.version as unseen_lines,
       campaign.goal_minor, campaign.currency
  from donations.campaigns campaign
  cross join unseen
  left join base on true
 where campaign.id = $1
