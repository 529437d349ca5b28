select count(*) from donations.api_keys where revoked_at is null
