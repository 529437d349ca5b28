-- Level 2: the view's row, plus the ledger lines that the view's snapshot did not see. One statement, one snapshot: exact.
-- No row where the view does not know the campaign.
with seen as (
    select known.raised_minor, known.donation_count, known.donor_count, known.version, marker.snapshot
      from payments.campaign_totals known, payments.campaign_totals marker
     where known.campaign_id = $1
       and marker.campaign_id = '00000000-0000-0000-0000-000000000000'
), unseen as (
    select coalesce(sum(entry.amount_minor), 0)::bigint as raised_minor,
           coalesce(sum(entry.donations_delta), 0)::bigint as donation_count,
           coalesce(sum(entry.donors_delta), 0)::bigint as donor_count,
           count(*) as version
      from payments.ledger_entries entry
     where entry.campaign_id = $1
       and entry.xact_id >= (select pg_snapshot_xmin(snapshot) from seen)
       and not pg_visible_in_snapshot(entry.xact_id, (select snapshot from seen))
)
select seen.raised_minor + unseen.raised_minor as raised_minor,
       seen.donation_count + unseen.donation_count as donation_count,
       seen.donor_count + unseen.donor_count as donor_count,
       seen.version + unseen.version as version,
       campaign.goal_minor, campaign.currency
  from seen, unseen, donations.campaigns campaign
 where campaign.id = $1
