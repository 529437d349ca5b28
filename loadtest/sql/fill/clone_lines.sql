-- The ledger of the payment $1, once for each clone: a donor of its own each time.
insert into payments.ledger_entries (campaign_id, payment_id, kind, amount_minor, currency, donations_delta, donors_delta,
                                     version, created_at)
select clone.campaign_id, clone.payment_id, l.kind, l.amount_minor, l.currency, l.donations_delta, l.donations_delta,
       l.version, l.created_at
  from clones clone, payments.ledger_entries l
 where l.payment_id = $1
 order by clone.number, l.id
