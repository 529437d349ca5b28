-- Its own statement, before the select: a snapshot taken before the lock would miss what the last holder deleted.
-- Its transaction need not reach the disk before it counts: what it deletes has been published, and should the server crash
-- before it is on disk, it is published again.
select partition::smallint, set_config('synchronous_commit', 'off', true)
  from generate_series(0, $1::integer - 1) as partition
 where pg_try_advisory_xact_lock(1128678255, partition)
