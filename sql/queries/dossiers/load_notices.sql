-- Without addresses: whoever explains a payment need not see them.
select kind, channel, status, attempts, created_at, sent_at
  from notifications.notifications
 where payment_id = $1 and donation_id = $2
 order by created_at, id
 limit $3
