-- Which of these donations are not completed, though their donors were shown that they are.
select id
  from unnest($1::uuid[]) as shown(id)
 where not exists (select from donations.donations
                    where donations.id = shown.id and status in ('COMPLETED', 'REFUNDED'))
