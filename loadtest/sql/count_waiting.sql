-- Events that are on their way to the bus.
select count(*) from donations.outbox_events where dead_at is null
