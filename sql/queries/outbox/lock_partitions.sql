-- Its own statement, before the select: a snapshot taken before the lock would miss what the last holder deleted.
select partition::smallint from generate_series(0, $1::integer - 1) as partition
 where pg_try_advisory_xact_lock(1128678255, partition)
