-- A fact is lost to those who wait for it, so the audit log says who lost it, with its body: nobody else has it. The
-- body is kept as text there: what nobody could read need not be JSON.
with discarded as (
    delete from donations.outbox_events where seq = any($1) and dead_at is not null
    returning seq, aggregate_id, body
), logged as (
    insert into donations.audit_logs (event_id, event_type, aggregate_id, occurred_at, recorded_at, body)
    select gen_random_uuid(), 'outbox.discarded', aggregate_id, $2, $2,
           jsonb_build_object('operator', $3::text, 'event', body)
      from discarded
)
select seq from discarded order by seq
