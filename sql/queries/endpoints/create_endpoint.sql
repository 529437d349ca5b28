-- At most $7 of them: under the lock of lock_endpoints.sql the count holds.
insert into notifications.webhook_endpoints (id, url, description, event_types, secret, status, created_at, updated_at)
select $1, $2, $3, $4, $5, 'ENABLED', $6, $6
 where (select count(*) from notifications.webhook_endpoints) < $7
returning id, url, description, event_types, status, disabled_reason, failing_since, previous_until,
          created_at, updated_at
