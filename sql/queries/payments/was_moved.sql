select 1 as found from payments.payment_state_history where payment_id = $1 and move_id = $2 limit 1
