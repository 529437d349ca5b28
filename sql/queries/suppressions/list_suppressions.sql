-- In the order of their keys; the cursor is the last one seen.
select channel, address, reason, source, at
  from notifications.suppressions
 where ($1::text is null or (channel, address, reason) > ($1, $2, $3))
 order by channel, address, reason
 limit $4
