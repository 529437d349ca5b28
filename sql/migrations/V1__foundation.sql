-- Three contexts, one database: a transaction may span them. Money is bigint minor units beside its currency.
create schema donations;
create schema payments;
create schema notifications;

-- donations --------------------------------------------------------------------------------------------------------

create table donations.campaigns (
    id uuid primary key,
    slug text not null unique,
    title text not null,
    description text,
    goal_minor bigint check (goal_minor > 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    manual_capture boolean not null default false,
    status text not null check (status in ('ACTIVE', 'PAUSED', 'COMPLETED', 'CANCELLED')),
    starts_at timestamptz,
    ends_at timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    check (ends_at > starts_at)
);

-- No foreign key to campaigns: the insert itself joins the campaign and checks that it is open, and a foreign key would
-- make every writer lock the same campaign row.
create table donations.donations (
    id uuid primary key,
    payment_id uuid not null,
    campaign_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    currency text not null,
    donor_name text not null,
    donor_email text not null,
    donor_phone text,
    anonymous boolean not null,
    message text,
    status text not null check (status in ('PENDING', 'COMPLETED', 'FAILED', 'REFUNDED', 'CANCELLED')),
    version bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null
) with (fillfactor = 80);

-- Published rows are deleted: one pinned snapshot makes marked rows slow, deleted ones are gone for good at the next vacuum.
create table donations.outbox_events (
    seq bigint generated always as identity primary key,
    id uuid not null,
    aggregate_id uuid not null,
    partition smallint not null,
    event_type text not null,
    body text not null,
    traceparent text,
    created_at timestamptz not null,
    attempts integer not null default 0,
    next_attempt_at timestamptz,
    dead_at timestamptz,
    last_error text
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- Only rows that failed: whether an older event of the same payment holds a newer one back.
create index outbox_events_held on donations.outbox_events (aggregate_id, seq) where attempts > 0;

create table donations.audit_logs (
    event_id uuid primary key,
    event_type text not null,
    aggregate_id uuid not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null,
    body jsonb not null
);
create index audit_logs_aggregate on donations.audit_logs (aggregate_id, occurred_at);

create table donations.api_keys (
    id uuid primary key,
    name text not null,
    key_hash bytea not null unique,
    scopes text[] not null,
    created_at timestamptz not null,
    revoked_at timestamptz
);

-- Secrets that every replica must share, made by the first one that starts.
create table donations.secrets (
    name text primary key,
    value bytea not null
);

-- payments ---------------------------------------------------------------------------------------------------------

create table payments.payment_transactions (
    id uuid primary key,
    donation_id uuid not null,
    campaign_id uuid not null,
    donor_key uuid not null, -- a pseudonym by which one donor's gifts are counted once
    amount_minor bigint not null check (amount_minor > 0),
    currency text not null,
    manual_capture boolean not null,
    provider text not null default 'stripe',
    intent_id text,
    client_secret text,
    status text not null
        check (status in ('INITIATED', 'PROCESSING', 'AUTHORIZED', 'CAPTURED', 'FAILED', 'CANCELED', 'REFUNDED')),
    version bigint not null check (version > 0),
    provider_at bigint,
    captured_minor bigint not null default 0 check (captured_minor >= 0),
    refunded_minor bigint not null default 0 check (refunded_minor between 0 and captured_minor),
    disputed_minor bigint not null default 0 check (disputed_minor >= 0),
    receipt_number bigint unique,
    flag text,
    traceparent text, -- goes to the provider with every try, which must be the same request
    checks integer not null default 0,
    check_at timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null
) with (fillfactor = 80);
create unique index payment_transactions_intent on payments.payment_transactions (intent_id) where intent_id is not null;
create index payment_transactions_check on payments.payment_transactions (check_at) where check_at is not null;

create sequence payments.receipt_numbers;

create table payments.payment_state_history (
    id bigint generated always as identity primary key,
    payment_id uuid not null,
    move_id uuid not null,
    at timestamptz not null,
    kind text not null,
    source text not null,
    event_id text,
    verdict text not null,
    reason text not null,
    from_status text,
    to_status text not null,
    version bigint not null,
    provider_created bigint,
    traceparent text,
    detail jsonb -- what the verdict was decided upon, once for a move; null where the payment was made
);
create index payment_state_history_payment on payments.payment_state_history (payment_id, id);

create table payments.refunds (
    id text primary key,
    payment_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    status text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null
);
create index refunds_payment on payments.refunds (payment_id);

create table payments.disputes (
    id text primary key,
    payment_id uuid not null,
    amount_minor bigint not null check (amount_minor >= 0),
    status text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null
);
create index disputes_payment on payments.disputes (payment_id);

-- Append-only, the one truth about money. `xact_id` lets a reader tell which lines a snapshot saw: commit order is
-- neither the order of ids nor of times.
create table payments.ledger_entries (
    id bigint generated always as identity primary key,
    campaign_id uuid not null,
    payment_id uuid not null,
    kind text not null check (kind in ('CAPTURE', 'REFUND', 'REFUND_FAILED', 'DISPUTE', 'REINSTATED')),
    amount_minor bigint not null check (amount_minor <> 0),
    currency text not null,
    donations_delta smallint not null,
    donors_delta smallint not null,
    version bigint not null,
    xact_id xid8 not null default pg_current_xact_id(),
    created_at timestamptz not null
);
create index ledger_entries_unseen on payments.ledger_entries (campaign_id, xact_id)
    include (amount_minor, donations_delta, donors_delta);
create index ledger_entries_payment on payments.ledger_entries (payment_id);

create function payments.refuse_rewriting() returns trigger language plpgsql as $$
begin
    raise exception 'payments.ledger_entries is append-only';
end $$;
create trigger ledger_entries_append_only before delete or truncate on payments.ledger_entries
    for each statement execute function payments.refuse_rewriting();
-- The transaction's number may be rewritten: it is taken over when the database moves to another cluster.
create trigger ledger_entries_no_update before update
    of id, campaign_id, payment_id, kind, amount_minor, currency, donations_delta, donors_delta, version, created_at
    on payments.ledger_entries for each statement execute function payments.refuse_rewriting();

create table payments.campaign_donors (
    campaign_id uuid not null,
    donor_key uuid not null,
    gifts integer not null,
    primary key (campaign_id, donor_key)
);

create table payments.idempotency_keys (
    scope text not null,
    key text not null,
    fingerprint bytea not null,
    resource_id uuid,
    status smallint,
    body text,
    created_at timestamptz not null,
    locked_until timestamptz,
    expires_at timestamptz not null,
    primary key (scope, key)
);
create index idempotency_keys_expiry on payments.idempotency_keys (expires_at);

create table payments.parked_events (
    event_id text primary key,
    intent_id text,
    payment_id uuid,
    kind text not null,
    provider_created bigint not null,
    body text not null,
    parked_at timestamptz not null
);
create index parked_events_intent on payments.parked_events (intent_id);
create index parked_events_payment on payments.parked_events (payment_id) where payment_id is not null;

-- Level 2 of the totals. The row with the nil UUID holds the snapshot that all other rows were computed under.
create materialized view payments.campaign_totals as
    select campaign_id,
           sum(amount_minor)::bigint as raised_minor,
           sum(donations_delta)::bigint as donation_count,
           sum(donors_delta)::bigint as donor_count,
           count(*)::bigint as version,
           null::pg_snapshot as snapshot
      from payments.ledger_entries
     group by campaign_id
    union all
    select '00000000-0000-0000-0000-000000000000', 0, 0, 0, 0, pg_current_snapshot();
create unique index campaign_totals_campaign on payments.campaign_totals (campaign_id);

-- notifications ----------------------------------------------------------------------------------------------------

create table notifications.notifications (
    id uuid primary key,
    event_id uuid not null,
    kind text not null,
    channel text not null check (channel in ('EMAIL', 'SMS', 'WEBHOOK')),
    recipient text not null,
    donation_id uuid not null,
    payment_id uuid not null,
    amount_minor bigint not null,
    currency text not null,
    status text not null check (status in ('PENDING', 'SENT', 'DEAD')),
    attempts integer not null default 0,
    next_attempt_at timestamptz,
    provider_id text,
    last_error text,
    traceparent text,
    created_at timestamptz not null,
    sent_at timestamptz,
    unique (event_id, kind, channel, recipient)
);
create index notifications_due on notifications.notifications (channel, next_attempt_at) where status = 'PENDING';
create index notifications_donation on notifications.notifications (donation_id);

create table notifications.delivery_logs (
    id bigint generated always as identity primary key,
    notification_id uuid not null references notifications.notifications (id),
    attempt integer not null,
    at timestamptz not null,
    outcome text not null check (outcome in ('DELIVERED', 'TRANSIENT', 'PERMANENT')),
    code text,
    detail text,
    duration_ms integer not null,
    provider_id text,
    unique (notification_id, attempt)
);
