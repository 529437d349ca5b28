-- Nothing goes any more to where this message went, unless it was for the operators ($7).
insert into notifications.suppressions (channel, address, reason, source, at)
select channel, lower(recipient), $4, $5, $6
  from notifications.notifications
 where channel = $1 and (id = $2 or provider_id = any($3)) and endpoint_id is null and kind <> all($7)
 limit 1
on conflict do nothing
