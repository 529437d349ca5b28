-- Which of these events have no stored answer, or were applied and are not in their payment's history.
select event_id
  from unnest($1::text[], $2::uuid[], $3::boolean[]) as heard(event_id, payment_id, is_applied)
 where not exists (select from payments.idempotency_keys
                    where scope = 'stripe' and key = heard.event_id and status = 200)
    or (heard.is_applied
        and not exists (select from payments.payment_state_history history
                         where history.payment_id = heard.payment_id and history.event_id = heard.event_id))
