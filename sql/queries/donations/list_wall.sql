-- The public wall: paid donations, newest first, after the one that the cursor names. Anonymous donors' names stay here.
select id, amount_minor, currency, anonymous, case when anonymous then null else donor_name end as donor_name, message,
       created_at
  from donations.donations
 where campaign_id = $1
   and status = 'COMPLETED'
   and id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
 order by id desc
 limit $3
