-- The provider's names of some payments; of $1 percent of them at most $2.
select intent_id from payments.payment_transactions tablesample bernoulli ($1::real)
 where intent_id is not null
 limit $2
