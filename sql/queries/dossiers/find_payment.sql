-- A payment by its own identifier, its donation's, or the provider's.
select id from payments.payment_transactions where id = $1
union
select payment_id from donations.donations where id = $1
union
select id from payments.payment_transactions where intent_id = $2
limit 1
