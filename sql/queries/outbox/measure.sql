select count(*) as waiting, count(dead_at) as dead, min(created_at) filter (where dead_at is null) as oldest
  from donations.outbox_events
