-- Moves what waits in one statement: states, history, refunds, disputes, ledger, donation status, idempotency, outbox.
-- $1 one row a payment, at most one move of each; $2 history, $3 refunds, $4 disputes, $5 ledger lines, $6 facts.
-- A move whose expected version is not the row's is left out (conflict); one whose key is taken is left out (duplicate).
-- Rows are locked in the order of their identifiers, so that two processes cannot deadlock.
with item as materialized (
    select * from json_to_recordset($1::json) as t(
        payment_id uuid, move_id uuid, at timestamptz, expected_version bigint, version bigint, status text,
        donation_status text, provider_at bigint, intent_id text, client_secret text, captured_minor bigint,
        refunded_minor bigint, disputed_minor bigint, flag text, checks integer, check_at timestamptz,
        scope text, key text, fingerprint text, answer_status smallint, answer_body text, expires_at timestamptz
    )
), locked as materialized (
    -- One by one by the key: a plan that is made while the table is nearly empty would read all of it, for as long as it is kept.
    select payment.*
      from (select payment_id, expected_version from item order by payment_id) as expected
     cross join lateral (
           select id, campaign_id, donor_key, currency from payments.payment_transactions
            where id = expected.payment_id and version = expected.expected_version
              for update) as payment
), claimed as (
    insert into payments.idempotency_keys as known
           (scope, key, fingerprint, resource_id, status, body, created_at, expires_at)
    select item.scope, item.key, decode(item.fingerprint, 'hex'), item.move_id, item.answer_status, item.answer_body,
           item.at, item.expires_at
      from item join locked on locked.id = item.payment_id
     where item.key is not null
     order by item.scope, item.key
    -- A key that was claimed before the provider was asked has no answer yet: this is its answer.
    on conflict (scope, key) do update
       set resource_id = excluded.resource_id, status = excluded.status, body = excluded.body,
           expires_at = excluded.expires_at
     where known.status is null and known.fingerprint = excluded.fingerprint
    returning resource_id
), accepted as materialized (
    select item.*
      from item join locked on locked.id = item.payment_id
     where item.key is null or item.move_id in (select resource_id from claimed)
), moved as materialized (
    select locked.id, locked.campaign_id, locked.donor_key, locked.currency, accepted.at
      from accepted join locked on locked.id = accepted.payment_id
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
    select accepted.payment_id, accepted.move_id, accepted.at, row.kind, row.source, row.event_id, row.verdict, row.reason,
           row.from_status, row.to_status, row.version, row.provider_created, row.traceparent,
           row.detail
      from json_to_recordset($2::json) as row(
               payment_id uuid, ord integer, kind text, source text, event_id text, verdict text, reason text,
               from_status text, to_status text, version bigint, provider_created bigint, traceparent text,
               detail jsonb)
      join accepted on accepted.payment_id = row.payment_id
     order by accepted.payment_id, row.ord
), refund as (
    insert into payments.refunds (id, payment_id, amount_minor, status, created_at, updated_at)
    select row.id, row.payment_id, row.amount_minor, row.status, accepted.at, accepted.at
      from json_to_recordset($3::json) as row(payment_id uuid, id text, amount_minor bigint, status text)
      join accepted on accepted.payment_id = row.payment_id
    on conflict (id) do update set status = excluded.status, updated_at = excluded.updated_at
), dispute as (
    insert into payments.disputes (id, payment_id, amount_minor, status, created_at, updated_at)
    select row.id, row.payment_id, row.amount_minor, row.status, accepted.at, accepted.at
      from json_to_recordset($4::json) as row(payment_id uuid, id text, amount_minor bigint, status text)
      join accepted on accepted.payment_id = row.payment_id
    on conflict (id) do update
       set status = excluded.status, amount_minor = excluded.amount_minor, updated_at = excluded.updated_at
), line as materialized (
    select moved.campaign_id, moved.donor_key, moved.currency, moved.at, row.*,
           row_number() over (partition by moved.campaign_id, moved.donor_key order by row.payment_id, row.ord) as place
      from json_to_recordset($5::json) as row(
               payment_id uuid, ord integer, kind text, amount_minor bigint, donations_delta smallint, version bigint)
      join moved on moved.id = row.payment_id
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
     order by line.payment_id, line.ord
), outbox as (
    insert into donations.outbox_events (id, aggregate_id, partition, event_type, body, traceparent, created_at)
    select row.id, row.payment_id, row.partition, row.event_type, row.body, row.traceparent, accepted.at
      from json_to_recordset($6::json) as row(
               payment_id uuid, ord integer, id uuid, partition smallint, event_type text, body text, traceparent text)
      join accepted on accepted.payment_id = row.payment_id
     order by accepted.payment_id, row.ord
)
select item.move_id,
       locked.id is not null as is_current,
       accepted.move_id is not null as is_moved
  from item
  left join locked on locked.id = item.payment_id
  left join accepted on accepted.payment_id = item.payment_id
