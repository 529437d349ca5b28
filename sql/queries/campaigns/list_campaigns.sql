select id, slug, title, description, goal_minor, currency, manual_capture, status, starts_at, ends_at, created_at, updated_at
  from donations.campaigns
 where ($1::uuid is null or id < $1)
   and ($2::text is null or status = $2)
 order by id desc
 limit $3
