delete from notifications.suppressions where channel = $1 and address = lower($2) and ($3::text is null or reason = $3)
