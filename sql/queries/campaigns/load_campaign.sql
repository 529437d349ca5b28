select id, slug, title, description, goal_minor, currency, manual_capture, status, starts_at, ends_at, created_at, updated_at
  from donations.campaigns
 where id = $1 or slug = $2
