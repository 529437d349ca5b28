-- The first one to ask makes the secret; everybody gets the same.
with made as (
    insert into donations.secrets (name, value) values ($1, $2) on conflict (name) do nothing returning value
)
select value from made union all select value from donations.secrets where name = $1 limit 1
