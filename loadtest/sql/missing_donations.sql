-- Which of these donations are not there with their payment.
select id
  from unnest($1::uuid[], $2::uuid[]) as given(id, payment_id)
 where not exists (select from donations.donations donation
                     join payments.payment_transactions payment
                       on payment.id = donation.payment_id and payment.donation_id = donation.id
                    where donation.id = given.id and donation.payment_id = given.payment_id)
