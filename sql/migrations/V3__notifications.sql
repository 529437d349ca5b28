-- Notifications over three channels: claimed by living processes, answered for by providers.

-- A webhook that tests an endpoint is about no donation.
alter table notifications.notifications
    alter column donation_id drop not null,
    alter column payment_id drop not null,
    alter column amount_minor drop not null,
    alter column currency drop not null,
    drop constraint notifications_status_check,
    -- PENDING → SENT (the provider took it) → DELIVERED | UNDELIVERED (the provider's word); PENDING → DEAD (an operator
    -- may replay or discard it); PENDING → SUPPRESSED (the address wants or takes nothing).
    add constraint notifications_status_check check (status in
        ('PENDING', 'SENT', 'DELIVERED', 'UNDELIVERED', 'DEAD', 'SUPPRESSED', 'DISCARDED')),
    add column endpoint_id uuid, -- of a webhook
    add column payload text, -- of a webhook: the bytes are the same at every try
    add column duplicate_of uuid, -- the message that an operator sent once more
    add column tries integer not null default 0, -- of the schedule; a replay begins again, `attempts` goes on
    add column claimed_by integer, -- the process that is sending it; its advisory lock says whether it lives
    add column provider_status text,
    add column provider_at timestamptz,
    add constraint notifications_webhook_check
        check (channel <> 'WEBHOOK' or (endpoint_id is not null and payload is not null));
update notifications.notifications set tries = attempts;

drop index notifications.notifications_due;
create index notifications_due on notifications.notifications (channel, next_attempt_at)
    where status = 'PENDING' and claimed_by is null and endpoint_id is null;
create index notifications_due_endpoint on notifications.notifications (endpoint_id, next_attempt_at)
    where status = 'PENDING' and claimed_by is null and endpoint_id is not null;
create index notifications_claimed on notifications.notifications (claimed_by) where claimed_by is not null;
create index notifications_dead on notifications.notifications (id) where status = 'DEAD';
create index notifications_payment on notifications.notifications (payment_id);
create index notifications_recipient on notifications.notifications (lower(recipient));
-- Providers say by their own name for a message what became of it.
create index notifications_provider on notifications.notifications (provider_id) where provider_id is not null;

-- One for each process that delivers: the second half of its advisory lock.
create sequence notifications.courier_numbers as integer cycle;

-- An attempt is written down before it begins: one that was never settled may have reached the recipient.
alter table notifications.delivery_logs
    -- It would lock the message once more for each attempt; only the statement that claims a message writes attempts.
    drop constraint delivery_logs_notification_id_fkey,
    drop constraint delivery_logs_outcome_check,
    alter column duration_ms drop not null,
    add column settled_at timestamptz;
update notifications.delivery_logs
   set settled_at = at, at = at - duration_ms * interval '1 millisecond',
       outcome = case outcome when 'DELIVERED' then 'ACCEPTED' else outcome end;
alter table notifications.delivery_logs
    add constraint delivery_logs_outcome_check
        check (outcome in ('STARTED', 'ACCEPTED', 'TRANSIENT', 'PERMANENT', 'UNKNOWN'));
create index delivery_logs_unknown on notifications.delivery_logs (notification_id) where outcome = 'UNKNOWN';

-- Partners that are told of facts. A handful of rows: it is always read whole, so it needs no index.
create table notifications.webhook_endpoints (
    id uuid primary key,
    url text not null,
    description text,
    event_types text[] not null, -- empty: all
    secret text not null,
    previous_secret text,
    previous_until timestamptz,
    status text not null check (status in ('ENABLED', 'DISABLED')),
    disabled_reason text check (disabled_reason in ('GONE', 'FAILING', 'OPERATOR')),
    failing_since timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    check ((status = 'DISABLED') = (disabled_reason is not null)),
    check ((previous_secret is null) = (previous_until is null))
);

-- Addresses that nothing is sent to any more, and why. Mail addresses in lower case.
create table notifications.suppressions (
    channel text not null check (channel in ('EMAIL', 'SMS')),
    address text not null,
    reason text not null check (reason in ('BOUNCE', 'COMPLAINT', 'UNSUBSCRIBE')),
    source text not null, -- who said so: a provider's name, or the donor
    at timestamptz not null,
    primary key (channel, address, reason)
);
