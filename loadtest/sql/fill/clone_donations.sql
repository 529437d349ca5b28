-- The donation of the payment $1, once for each clone.
insert into donations.donations (id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email, donor_phone,
                                 anonymous, message, status, version, created_at, updated_at)
select clone.donation_id, clone.payment_id, clone.campaign_id, d.amount_minor, d.currency, d.donor_name, clone.donor_email,
       d.donor_phone, d.anonymous, d.message, d.status, d.version, d.created_at, d.updated_at
  from clones clone, donations.donations d
 where d.payment_id = $1
