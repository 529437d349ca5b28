-- Campaigns whose books disagree: the ledger, the payments, the donors, the view and the ledger's checkpoint, both with what
-- their snapshots did not see.
-- One statement, one snapshot. $1 one campaign, $2 how many at most.
with campaign as (
    select id from donations.campaigns where $1::uuid is null or id = $1
    union select campaign_id from payments.ledger_entries where $1::uuid is null or campaign_id = $1
), ledger as (
    select campaign_id, sum(amount_minor) as raised_minor, sum(donations_delta) as donation_count,
           sum(donors_delta) as donor_count, count(*) as version
      from payments.ledger_entries where $1::uuid is null or campaign_id = $1 group by campaign_id
), paid as (
    select campaign_id, sum(captured_minor - refunded_minor - disputed_minor) as raised_minor,
           count(*) filter (where status = 'CAPTURED') as donation_count,
           count(distinct donor_key) filter (where status = 'CAPTURED') as donor_count
      from payments.payment_transactions where $1::uuid is null or campaign_id = $1 group by campaign_id
), gifts as (
    select campaign_id, donor_key, count(*) filter (where status = 'CAPTURED') as gifts
      from payments.payment_transactions where $1::uuid is null or campaign_id = $1 group by campaign_id, donor_key
), counted as (
    select campaign_id, donor_key, gifts
      from payments.campaign_donors where $1::uuid is null or campaign_id = $1
), miscounted as (
    select campaign_id, count(*) as donors
      from gifts full join counted using (campaign_id, donor_key)
     where coalesce(gifts.gifts, 0) <> coalesce(counted.gifts, 0)
     group by campaign_id
), marker as (
    select snapshot from payments.campaign_totals where campaign_id = '00000000-0000-0000-0000-000000000000'
), unseen as (
    select entry.campaign_id, sum(entry.amount_minor) as raised_minor, sum(entry.donations_delta) as donation_count,
           sum(entry.donors_delta) as donor_count, count(*) as version
      from payments.ledger_entries entry
     where entry.xact_id >= (select pg_snapshot_xmin(snapshot) from marker)
       and not pg_visible_in_snapshot(entry.xact_id, (select snapshot from marker))
       and ($1::uuid is null or entry.campaign_id = $1)
     group by entry.campaign_id
), shown as (
    select seen.campaign_id, seen.raised_minor + coalesce(unseen.raised_minor, 0) as raised_minor,
           seen.donation_count + coalesce(unseen.donation_count, 0) as donation_count,
           seen.donor_count + coalesce(unseen.donor_count, 0) as donor_count,
           seen.version + coalesce(unseen.version, 0) as version
      from payments.campaign_totals seen
      left join unseen using (campaign_id)
), reckoned as (
    select checkpoint.campaign_id, checkpoint.raised_minor + unseen.raised_minor as raised_minor,
           checkpoint.donation_count + unseen.donation_count as donation_count,
           checkpoint.donor_count + unseen.donor_count as donor_count,
           checkpoint.version + unseen.version as version
      from payments.ledger_checkpoints checkpoint
     cross join lateral (
           select coalesce(sum(entry.amount_minor), 0) as raised_minor,
                  coalesce(sum(entry.donations_delta), 0) as donation_count,
                  coalesce(sum(entry.donors_delta), 0) as donor_count,
                  count(*) as version
             from payments.ledger_entries entry
            where entry.campaign_id = checkpoint.campaign_id
              and entry.xact_id >= pg_snapshot_xmin(checkpoint.snapshot)
              and not pg_visible_in_snapshot(entry.xact_id, checkpoint.snapshot)) as unseen
     where $1::uuid is null or checkpoint.campaign_id = $1
), books as (
    select campaign.id,
           coalesce(ledger.raised_minor, 0)::bigint as ledger_raised,
           coalesce(ledger.donation_count, 0)::bigint as ledger_donations,
           coalesce(ledger.donor_count, 0)::bigint as ledger_donors,
           coalesce(paid.raised_minor, 0)::bigint as paid_raised,
           coalesce(paid.donation_count, 0)::bigint as paid_donations,
           coalesce(paid.donor_count, 0)::bigint as paid_donors,
           shown.campaign_id is not null as is_shown,
           coalesce(shown.raised_minor, 0)::bigint as shown_raised,
           coalesce(shown.donation_count, 0)::bigint as shown_donations,
           coalesce(shown.donor_count, 0)::bigint as shown_donors,
           coalesce(shown.version, 0)::bigint as shown_version,
           reckoned.campaign_id is not null as is_reckoned,
           coalesce(reckoned.raised_minor, 0)::bigint as reckoned_raised,
           coalesce(reckoned.donation_count, 0)::bigint as reckoned_donations,
           coalesce(reckoned.donor_count, 0)::bigint as reckoned_donors,
           coalesce(reckoned.version, 0)::bigint as reckoned_version,
           coalesce(ledger.version, 0)::bigint as ledger_version,
           coalesce(miscounted.donors, 0)::bigint as miscounted_donors
      from campaign
      left join ledger on ledger.campaign_id = campaign.id
      left join paid on paid.campaign_id = campaign.id
      left join shown on shown.campaign_id = campaign.id
      left join reckoned on reckoned.campaign_id = campaign.id
      left join miscounted on miscounted.campaign_id = campaign.id
), judged as (
    select books.*,
           (ledger_raised, ledger_donations, ledger_donors) is distinct from (paid_raised, paid_donations, paid_donors)
           or miscounted_donors > 0
           or is_shown and (ledger_raised, ledger_donations, ledger_donors, ledger_version)
              is distinct from (shown_raised, shown_donations, shown_donors, shown_version)
           or is_reckoned and (ledger_raised, ledger_donations, ledger_donors, ledger_version)
              is distinct from (reckoned_raised, reckoned_donations, reckoned_donors, reckoned_version) as differs
      from books
)
select judged.*, count(*) over () as differing
  from judged
 where differs
 order by id
 limit $2
