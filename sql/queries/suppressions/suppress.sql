insert into notifications.suppressions (channel, address, reason, source, at)
values ($1, lower($2), $3, $4, $5)
on conflict do nothing
