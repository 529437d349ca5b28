-- How many history rows the payment $1 has.
select count(*) from payments.payment_state_history where payment_id = $1
