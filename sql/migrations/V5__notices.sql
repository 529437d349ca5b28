-- When an endpoint failed last: a failure long after the one before it begins a new row of failures.
alter table notifications.webhook_endpoints add column last_failed_at timestamptz;
