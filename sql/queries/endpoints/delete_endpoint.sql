delete from notifications.webhook_endpoints where id = $1
