-- Level 3: the ledger itself. No row where there is no such campaign.
select coalesce(sum(entry.amount_minor), 0)::bigint as raised_minor,
       coalesce(sum(entry.donations_delta), 0)::bigint as donation_count,
       coalesce(sum(entry.donors_delta), 0)::bigint as donor_count,
       count(entry.xact_id) as version,
       campaign.goal_minor, campaign.currency
  from donations.campaigns campaign
  left join payments.ledger_entries entry on entry.campaign_id = campaign.id
 where campaign.id = $1
 group by campaign.id
