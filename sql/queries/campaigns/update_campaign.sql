-- Unless somebody else has changed it since it was read.
update donations.campaigns
   set title = $2, description = $3, goal_minor = $4, status = $5, starts_at = $6, ends_at = $7, updated_at = $8
 where id = $1 and updated_at = $9
