-- The same message once more, as a message of its own ($2) that says of which it is a duplicate. Only what went out, or
-- ended, can be sent again; what is on its way needs no help. What could only end at once (an address that is
-- suppressed, $4 names the kinds that an unsubscription silences, $6 those that nothing does; an endpoint that is disabled) is not begun.
with found as materialized (
    select notice.*,
           notice.endpoint_id is not null
           and not exists (select from notifications.webhook_endpoints endpoint
                            where endpoint.id = notice.endpoint_id and endpoint.status = 'ENABLED') as endpoint_disabled,
           exists (select from notifications.suppressions suppression
                    where suppression.channel = notice.channel
                      and suppression.address = lower(notice.recipient)
                      and (suppression.reason <> 'UNSUBSCRIBE' or notice.channel = 'SMS' or notice.kind = any($4))
                      and notice.kind <> all($6)
           ) as address_suppressed
      from notifications.notifications notice
     where notice.id = $1
), resent as (
    insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload, donation_id,
                                             payment_id, amount_minor, currency, duplicate_of, status, next_attempt_at,
                                             traceparent, created_at)
    select $2, $2, kind, channel, recipient, endpoint_id, payload, donation_id, payment_id, amount_minor, currency,
           coalesce(duplicate_of, id), 'PENDING', $3, $5, $3
      from found
     where status <> 'PENDING' and not endpoint_disabled and not address_suppressed
    returning *
)
select found.status as found_status, found.endpoint_disabled, found.address_suppressed, resent.id is not null as is_resent,
       resent.id, resent.event_id, resent.kind, resent.channel, resent.recipient, resent.endpoint_id, resent.donation_id,
       resent.payment_id, resent.duplicate_of, resent.status, resent.attempts, resent.next_attempt_at,
       resent.provider_id, resent.provider_status, resent.provider_at, resent.last_error, resent.created_at,
       resent.sent_at
  from found
  left join resent on true
