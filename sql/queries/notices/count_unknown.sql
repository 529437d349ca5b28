-- Attempts of which nobody knows whether they reached the recipient: so many messages at most were doubled.
select notice.channel, count(*)
  from notifications.delivery_logs log
  join notifications.notifications notice on notice.id = log.notification_id
 where log.outcome = 'UNKNOWN'
 group by notice.channel
