select pg_advisory_unlock(1128678255, 1000)
