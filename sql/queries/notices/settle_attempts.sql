-- How attempts ended: the log and the message's new state, together or not at all. A later attempt of somebody else, or
-- a provider that already said what became of it, is not overwritten.
with item as materialized (
    select * from unnest($1::uuid[], $2::integer[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::integer[],
                         $8::text[], $9::text[], $10::timestamptz[])
        as t(id, attempt, at, outcome, code, detail, duration_ms, provider_id, status, next_attempt_at)
), log as (
    update notifications.delivery_logs log
       set outcome = item.outcome, settled_at = item.at, code = item.code, detail = item.detail,
           duration_ms = item.duration_ms, provider_id = item.provider_id
      from item
     where log.notification_id = item.id and log.attempt = item.attempt and log.outcome in ('STARTED', 'UNKNOWN')
)
update notifications.notifications notice
   set claimed_by = null,
       status = case when notice.status = 'PENDING' then item.status else notice.status end,
       next_attempt_at = case when notice.status = 'PENDING' then item.next_attempt_at end,
       provider_id = coalesce(item.provider_id, notice.provider_id),
       last_error = item.detail,
       sent_at = case when item.outcome = 'ACCEPTED' then coalesce(notice.sent_at, item.at) else notice.sent_at end
  from item
 where notice.id = item.id and notice.attempts = item.attempt
