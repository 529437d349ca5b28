select id, name, scopes, created_at, revoked_at from donations.api_keys order by id
