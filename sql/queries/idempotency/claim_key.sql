-- Written before the provider is asked: a crash in between leaves a key without an answer, and what was ordered under it.
insert into payments.idempotency_keys (scope, key, fingerprint, resource_id, body, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict do nothing
