-- Due checks, each leased for a while, so that two processes do not check one payment at once and a crash loses none.
update payments.payment_transactions
   set check_at = $1::timestamptz + $2::bigint * interval '1 second'
 where id in (
       select id from payments.payment_transactions
        where check_at <= $1
        order by check_at
        limit $3
          for update skip locked)
returning id, intent_id is null as is_unopened
