-- Each clone's donor, with one gift.
insert into payments.campaign_donors (campaign_id, donor_key, gifts)
select campaign_id, md5(lower(donor_email))::uuid, 1 from clones
