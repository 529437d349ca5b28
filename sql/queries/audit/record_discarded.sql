-- A dead letter of a queue that an operator discards: its body is nowhere else, so it is kept here, as text, for what
-- nobody could read need not be JSON.
insert into donations.audit_logs (event_id, event_type, aggregate_id, occurred_at, recorded_at, body)
values (gen_random_uuid(), 'queue.discarded', $1, $2, $2,
        jsonb_build_object('operator', $3::text, 'queue', $4::text, 'message_id', $5::uuid, 'event', $6::text))
