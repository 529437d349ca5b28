insert into donations.audit_logs (event_id, event_type, aggregate_id, occurred_at, recorded_at, body)
select event_id, event_type, aggregate_id, occurred_at, $6, body::jsonb
  from unnest($1::uuid[], $2::text[], $3::uuid[], $4::timestamptz[], $5::text[])
       as item(event_id, event_type, aggregate_id, occurred_at, body)
on conflict (event_id) do nothing
