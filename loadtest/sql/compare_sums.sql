-- Each campaign's ledger beside what its payments say; $1 names them.
with ledger as (
    select campaign_id, sum(amount_minor)::bigint as raised, sum(donations_delta)::bigint as donations,
           sum(donors_delta)::bigint as donors, count(*) as lines
      from payments.ledger_entries
     where campaign_id = any ($1::uuid[])
     group by campaign_id
), paid as (
    select campaign_id, sum(captured_minor - refunded_minor - disputed_minor)::bigint as raised
      from payments.payment_transactions
     where campaign_id = any ($1::uuid[])
     group by campaign_id
)
select campaign.id,
       coalesce(ledger.raised, 0) as ledger_raised,
       coalesce(ledger.donations, 0) as ledger_donations,
       coalesce(ledger.donors, 0) as ledger_donors,
       coalesce(ledger.lines, 0) as ledger_lines,
       coalesce(paid.raised, 0) as paid_raised
  from unnest($1::uuid[]) as campaign(id)
  left join ledger on ledger.campaign_id = campaign.id
  left join paid on paid.campaign_id = campaign.id
