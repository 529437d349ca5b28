-- When an endpoint failed last: a failure long after the one before it begins a new row of failures.
alter table notifications.webhook_endpoints add column last_failed_at timestamptz;
-- How often an address was told lately that an attempt was declined. Its thank-yous are counted by notifications_donor.
-- A large installation makes it before the upgrade, without holding anybody up:
-- create index concurrently if not exists notifications_failures on notifications.notifications (lower(recipient), created_at)
--     where kind = 'PAYMENT_FAILED'
create index if not exists notifications_failures on notifications.notifications (lower(recipient), created_at)
    where kind = 'PAYMENT_FAILED';
