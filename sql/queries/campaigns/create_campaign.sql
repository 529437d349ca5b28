insert into donations.campaigns (id, slug, title, description, goal_minor, currency, manual_capture, status, starts_at,
                                 ends_at, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
on conflict (slug) do nothing
