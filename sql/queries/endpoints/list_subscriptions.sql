-- Who is told of facts.
select id, event_types from notifications.webhook_endpoints where status = 'ENABLED' order by id
