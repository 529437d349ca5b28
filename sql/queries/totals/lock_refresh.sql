select pg_try_advisory_xact_lock(1128678255, 1000)
