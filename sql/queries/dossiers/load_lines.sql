select payment_id, campaign_id, kind, amount_minor, currency, donations_delta, version, created_at
  from payments.ledger_entries
 where payment_id = any($1)
 order by payment_id, id
