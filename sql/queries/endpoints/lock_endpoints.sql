-- Its own statement, before the count: a snapshot taken before the lock would miss what the last holder added.
select pg_advisory_xact_lock(1128678255, 3000)
