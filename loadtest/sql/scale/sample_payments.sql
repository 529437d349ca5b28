-- Some payments from everywhere in the table; of $1 percent of them at most $2.
select id from payments.payment_transactions tablesample bernoulli ($1::real) limit $2
