-- What belongs to nothing, waits for nobody, or was set aside. One statement, one snapshot. $1 events that were parked
-- before this should have been taken up, if their payment is here.
select (select count(*) from donations.campaigns) as campaigns,
       (select count(*) from donations.outbox_events where dead_at is not null) as dead_facts,
       (select count(*) from payments.parked_events parked
         where parked_at < $1
           and exists (select from payments.payment_transactions payment
                        where payment.id = parked.payment_id or payment.intent_id = parked.intent_id)) as parked_late,
       (select count(*) from payments.parked_events parked
         where not exists (select from payments.payment_transactions payment
                            where payment.id = parked.payment_id or payment.intent_id = parked.intent_id))
           as parked_strange,
       (select count(*) from donations.donations donation
         where not exists (select from payments.payment_transactions where id = donation.payment_id)) as lone_donations,
       (select count(*) from payments.payment_state_history row
         where not exists (select from payments.payment_transactions where id = row.payment_id)) as lone_history,
       (select count(*) from payments.ledger_entries entry
         where not exists (select from payments.payment_transactions where id = entry.payment_id)) as lone_lines,
       (select count(*) from payments.refunds refund
         where not exists (select from payments.payment_transactions where id = refund.payment_id)) as lone_refunds,
       (select count(*) from payments.disputes dispute
         where not exists (select from payments.payment_transactions where id = dispute.payment_id)) as lone_disputes,
       (select count(receipt_number) - count(distinct receipt_number) from payments.payment_transactions)
           as repeated_receipts
