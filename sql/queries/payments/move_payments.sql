-- Moves what waits in one statement: states, history, refunds, disputes, ledger, donation status, idempotency, outbox.
-- $1 to $22 one row a payment, at most one move of each; $23 to $36 history, $37 to $40 refunds, $41 to $44 disputes,
-- $45 to $48 ledger lines, $49 to $56 facts: each with the move that it belongs to, in the order in which they are kept.
-- A move whose expected version is not the row's is left out (conflict); one whose key is taken is left out (duplicate).
-- Rows are locked in the order of their identifiers, so that two processes cannot deadlock.
-- Arrays and no JSON: parsing it took a fifth of the statement.
with item as materialized (
    select * from unnest(
        $1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[],
        $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::integer[],
        $16::timestamptz[], $17::text[], $18::text[], $19::bytea[], $20::smallint[], $21::text[], $22::timestamptz[]
    ) as t(
        payment_id, move_id, at, expected_version, version, status, donation_status, provider_at,
        intent_id, client_secret, captured_minor, refunded_minor, disputed_minor, flag, checks,
        check_at, scope, key, fingerprint, answer_status, answer_body, expires_at
    )
), locked as materialized (
    -- One by one by the key: a plan that is made while the table is nearly empty would read all of it, for as long as it is kept.
    select expected.*, payment.campaign_id, payment.donor_key, payment.currency
      from (select * from item order by payment_id) as expected
     cross join lateral (
           select campaign_id, donor_key, currency from payments.payment_transactions
            where id = expected.payment_id and version = expected.expected_version
              for update) as payment
), claimed as (
    insert into payments.idempotency_keys as known
           (scope, key, fingerprint, resource_id, status, body, created_at, expires_at)
    select scope, key, fingerprint, move_id, answer_status, answer_body, at, expires_at
      from locked
     where key is not null
     order by scope, key
    -- A key that was claimed before the provider was asked has no answer yet: this is its answer.
    on conflict (scope, key) do update
       set resource_id = excluded.resource_id, status = excluded.status, body = excluded.body,
           expires_at = excluded.expires_at
     where known.status is null and known.fingerprint = excluded.fingerprint
    returning resource_id
), accepted as materialized (
    select * from locked where key is null or move_id in (select resource_id from claimed)
), written as (
    update payments.payment_transactions payment
       set status = accepted.status,
           version = accepted.version,
           provider_at = accepted.provider_at,
           intent_id = accepted.intent_id,
           client_secret = accepted.client_secret,
           captured_minor = accepted.captured_minor,
           refunded_minor = accepted.refunded_minor,
           disputed_minor = accepted.disputed_minor,
           receipt_number = case
               when payment.receipt_number is null and accepted.captured_minor > 0 then nextval('payments.receipt_numbers')
               else payment.receipt_number
           end,
           flag = accepted.flag,
           checks = accepted.checks,
           check_at = accepted.check_at,
           updated_at = accepted.at
      from accepted
     where payment.id = accepted.payment_id and accepted.version > accepted.expected_version
    returning payment.donation_id, accepted.donation_status, accepted.version, accepted.at
), donation as (
    update donations.donations donation
       set status = written.donation_status, version = written.version, updated_at = written.at
      from written
     where donation.id = written.donation_id
), history as (
    insert into payments.payment_state_history (payment_id, move_id, at, kind, source, event_id, verdict, reason,
                                                from_status, to_status, version, provider_created, traceparent, detail)
    select payment_id, move_id, at, kind, source, event_id, verdict, reason,
           from_status, to_status, version, provider_created, traceparent, detail
      from unnest($23::uuid[], $24::uuid[], $25::timestamptz[], $26::text[], $27::text[], $28::text[], $29::text[],
                  $30::text[], $31::text[], $32::text[], $33::bigint[], $34::bigint[], $35::text[], $36::jsonb[])
           with ordinality
           as row(payment_id, move_id, at, kind, source, event_id, verdict, reason,
                  from_status, to_status, version, provider_created, traceparent, detail, ord)
     where move_id in (select move_id from accepted)
     order by ord
), refund as (
    insert into payments.refunds (id, payment_id, amount_minor, status, created_at, updated_at)
    select row.id, accepted.payment_id, row.amount_minor, row.status, accepted.at, accepted.at
      from unnest($37::uuid[], $38::text[], $39::bigint[], $40::text[]) as row(move_id, id, amount_minor, status)
      join accepted using (move_id)
    on conflict (id) do update set status = excluded.status, updated_at = excluded.updated_at
), dispute as (
    insert into payments.disputes (id, payment_id, amount_minor, status, created_at, updated_at)
    select row.id, accepted.payment_id, row.amount_minor, row.status, accepted.at, accepted.at
      from unnest($41::uuid[], $42::text[], $43::bigint[], $44::text[]) as row(move_id, id, amount_minor, status)
      join accepted using (move_id)
    on conflict (id) do update
       set status = excluded.status, amount_minor = excluded.amount_minor, updated_at = excluded.updated_at
), line as materialized (
    select accepted.campaign_id, accepted.donor_key, accepted.currency, accepted.payment_id, accepted.version, accepted.at,
           row.kind, row.amount_minor, row.donations_delta, row.ord,
           row_number() over (partition by accepted.campaign_id, accepted.donor_key order by row.ord) as place
      from unnest($45::uuid[], $46::text[], $47::bigint[], $48::smallint[])
           with ordinality as row(move_id, kind, amount_minor, donations_delta, ord)
      join accepted using (move_id)
), gift as materialized (
    select campaign_id, donor_key, sum(donations_delta)::integer as delta
      from line group by campaign_id, donor_key having sum(donations_delta) <> 0
), donor as (
    insert into payments.campaign_donors as known (campaign_id, donor_key, gifts)
    select campaign_id, donor_key, delta from gift order by campaign_id, donor_key
    on conflict (campaign_id, donor_key) do update set gifts = known.gifts + excluded.gifts
    returning campaign_id, donor_key, gifts
), ledger as (
    insert into payments.ledger_entries (campaign_id, payment_id, kind, amount_minor, currency, donations_delta,
                                         donors_delta, version, created_at)
    select line.campaign_id, line.payment_id, line.kind, line.amount_minor, line.currency, line.donations_delta,
           case when line.place = 1
                then coalesce((donor.gifts > 0)::integer - (donor.gifts - gift.delta > 0)::integer, 0)
                else 0 end,
           line.version, line.at
      from line
      left join gift using (campaign_id, donor_key)
      left join donor using (campaign_id, donor_key)
     order by line.ord
), outbox as (
    insert into donations.outbox_events (id, aggregate_id, partition, event_type, body, traceparent, created_at)
    select id, payment_id, partition, event_type, body, traceparent, at
      from unnest($49::uuid[], $50::uuid[], $51::uuid[], $52::smallint[], $53::text[], $54::text[], $55::text[],
                  $56::timestamptz[])
           with ordinality as row(move_id, payment_id, id, partition, event_type, body, traceparent, at, ord)
     where move_id in (select move_id from accepted)
     order by ord
)
select item.move_id,
       item.move_id in (select move_id from locked) as is_current,
       item.move_id in (select move_id from accepted) as is_moved
  from item
