insert into donations.api_keys (id, name, key_hash, scopes, created_at) values ($1, $2, $3, $4, $5)
on conflict (key_hash) do nothing
