-- A key that is known gets the scopes of today: the configured one has every scope, also those that came later.
insert into donations.api_keys (id, name, key_hash, scopes, created_at) values ($1, $2, $3, $4, $5)
on conflict (key_hash) do update set scopes = excluded.scopes
