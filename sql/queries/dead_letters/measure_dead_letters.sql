-- What lies dead in the database, and since when: the oldest message was made then, the oldest event set aside.
select (select count(*) from notifications.notifications where status = 'DEAD') as notices,
       (select min(created_at) from notifications.notifications where status = 'DEAD') as oldest_notice,
       count(*) as events,
       min(dead_at) as oldest_event
  from donations.outbox_events
 where attempts > 0 and dead_at is not null
