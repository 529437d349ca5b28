-- Events of other systems on the same provider account never find a payment here.
delete from payments.parked_events
 where event_id in (
       select event_id from payments.parked_events where parked_at < $1 order by parked_at limit $2
          for update skip locked)
