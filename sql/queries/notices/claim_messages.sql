-- Due mails or text messages ($1), claimed for the process $2, each with an attempt that is written down before anything
-- is sent. Messages to an address that is suppressed ($5: kinds that an unsubscription silences, $6: kinds that nothing
-- does) end here and are shown.
with due as materialized (
    select notice.id,
           exists (select from notifications.suppressions suppression
                    where suppression.channel = notice.channel
                      and suppression.address = lower(notice.recipient)
                      and (suppression.reason <> 'UNSUBSCRIBE' or notice.channel = 'SMS' or notice.kind = any($5))
                      and notice.kind <> all($6)
           ) as suppressed
      from notifications.notifications notice
     where notice.channel = $1 and notice.status = 'PENDING' and notice.claimed_by is null
       and notice.endpoint_id is null and notice.next_attempt_at <= $3
     order by notice.next_attempt_at
     limit $4
       for update of notice skip locked
), claimed as (
    update notifications.notifications notice
       set claimed_by = $2, attempts = attempts + 1, tries = tries + 1
     -- An array, because of a limit that it does not know the planner expects a tenth of all that waits.
     where notice.id = any(array(select id from due where not suppressed))
    returning notice.*
), silenced as (
    update notifications.notifications notice
       set status = 'SUPPRESSED', next_attempt_at = null
     where notice.id = any(array(select id from due where suppressed))
), started as (
    insert into notifications.delivery_logs (notification_id, attempt, at, outcome)
    select id, attempts, $3, 'STARTED' from claimed
)
select due.id, due.suppressed, claimed.kind, claimed.channel, claimed.recipient, claimed.attempts, claimed.tries,
       claimed.amount_minor, claimed.currency, claimed.donation_id, claimed.duplicate_of, claimed.traceparent,
       claimed.created_at, donation.donor_name, campaign.title as campaign_title, payment.receipt_number,
       payment.intent_id,
       -- A receipt tells when the money came; a duplicate tells what the first one told.
       coalesce(case claimed.kind when 'PAYMENT_CONFIRMED' then
                    (select min(created_at) from payments.ledger_entries line
                      where line.payment_id = claimed.payment_id and line.kind = 'CAPTURE') end,
                (select created_at from notifications.notifications first where first.id = claimed.duplicate_of),
                claimed.created_at) as happened_at
  from due
  left join claimed on claimed.id = due.id
  left join donations.donations donation on donation.id = claimed.donation_id
  left join donations.campaigns campaign on campaign.id = donation.campaign_id
  left join payments.payment_transactions payment on payment.id = claimed.payment_id
