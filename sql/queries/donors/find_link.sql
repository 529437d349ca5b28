-- Whom a mail with a link went to, and when it was recorded.
select recipient, created_at from notifications.notifications where id = $1 and kind = 'DONOR_HISTORY'
