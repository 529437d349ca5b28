select id, name, scopes from donations.api_keys where key_hash = $1 and revoked_at is null
