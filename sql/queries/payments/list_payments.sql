-- Newest first; identifiers are UUIDv7, so their order is the order of creation. $1 the cursor: the last one seen.
select id, donation_id, campaign_id, intent_id, status, amount_minor, currency, captured_minor, refunded_minor,
       disputed_minor, flag, version, created_at, updated_at
  from payments.payment_transactions
 where ($1::uuid is null or id < $1)
   and ($2::text is null or status = $2)
   and ($3::uuid is null or campaign_id = $3)
   and ($4::text is null or intent_id = $4)
   and (not $5::boolean or flag is not null)
 order by id desc
 limit $6
