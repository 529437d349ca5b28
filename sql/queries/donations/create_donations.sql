-- Records what waits in one statement: donation, payment, first history row, outbox event and idempotency key, all or none.
-- A donation is refused (not open) unless its campaign takes donations now, and left alone where its key is taken.
-- What is new is looked up in a hash: joined, the planner, who takes a batch for one row, compares each row with each.
-- Running it again with the same identifiers changes nothing, so a batch whose commit was not heard of can be sent again.
with item as materialized (
    select * from unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::boolean[], $10::text[], $11::timestamptz[], $12::uuid[], $13::text[], $14::text[], $15::smallint[],
        $16::text[], $17::text[], $18::bytea[], $19::uuid[]
    ) as t(
        id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email, donor_phone,
        anonymous, message, created_at, fact_id, fact_body, traceparent, partition,
        scope, key, fingerprint, move_id
    )
), accepted as materialized (
    select item.*, campaign.manual_capture
      from item
      join donations.campaigns campaign on campaign.id = item.campaign_id and campaign.currency = item.currency
     where campaign.status = 'ACTIVE'
       and (campaign.starts_at is null or campaign.starts_at <= item.created_at)
       and (campaign.ends_at is null or campaign.ends_at > item.created_at)
), claimed as (
    insert into payments.idempotency_keys (scope, key, fingerprint, resource_id, created_at, locked_until, expires_at)
    select scope, key, fingerprint, id, created_at, created_at + interval '30 seconds', created_at + interval '24 hours'
      from accepted where key is not null order by scope, key
    on conflict do nothing
    returning resource_id
), recorded as materialized (
    select * from accepted where key is null or id in (select resource_id from claimed)
), new_donations as (
    insert into donations.donations (id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email,
                                     donor_phone, anonymous, message, status, version, created_at, updated_at)
    select id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email,
           donor_phone, anonymous, message, 'PENDING', 1, created_at, created_at
      from recorded
    on conflict (id) do nothing
    returning id
), new_payments as (
    insert into payments.payment_transactions (id, donation_id, campaign_id, donor_key, amount_minor, currency,
                                               manual_capture, status, version, traceparent, check_at,
                                               created_at, updated_at)
    select payment_id, id, campaign_id, md5(lower(donor_email))::uuid, amount_minor, currency,
           manual_capture, 'INITIATED', 1, traceparent, created_at + interval '15 seconds', created_at, created_at
      from recorded
    on conflict (id) do nothing
), history as (
    insert into payments.payment_state_history (payment_id, move_id, at, kind, source, verdict, reason, to_status,
                                                version, traceparent)
    select payment_id, move_id, created_at, 'donation.created', 'donor', 'applied', 'recorded', 'INITIATED', 1, traceparent
      from recorded where id in (select id from new_donations)
), outbox as (
    insert into donations.outbox_events (id, aggregate_id, partition, event_type, body, traceparent, created_at)
    select fact_id, payment_id, partition, 'donation.created', fact_body, traceparent, created_at
      from recorded where id in (select id from new_donations)
)
select item.id,
       accepted.id is not null as is_open,
       recorded.id is not null as is_recorded,
       coalesce(accepted.manual_capture, false) as manual_capture
  from item
  left join accepted on accepted.id = item.id
  left join recorded on recorded.id = item.id
