-- A key that was replaced in the configuration opens nothing any more.
update donations.api_keys set revoked_at = $3 where name = $1 and key_hash <> $2 and revoked_at is null
