select count(*) from payments.payment_transactions
 where ($1::uuid is null or campaign_id = $1)
   and ($2::timestamptz is null or created_at <= $2)
   and ($3::timestamptz is null or created_at >= $3)
   and ($4::text[] is null or status = any($4))
