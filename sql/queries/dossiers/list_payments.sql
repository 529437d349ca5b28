-- The next payments in the order of their making. $1 the last one seen; $2 one campaign, $3 a time before which or
-- $4 since which they were made, $5 these statuses.
select id from payments.payment_transactions
 where id > $1
   and ($2::uuid is null or campaign_id = $2)
   and ($3::timestamptz is null or created_at <= $3)
   and ($4::timestamptz is null or created_at >= $4)
   and ($5::text[] is null or status = any($5))
 order by id
 limit $6
