-- One request for a link at a time for an address, until the transaction ends, so that they can be counted.
select pg_advisory_xact_lock(hashtextextended('donor link ' || lower($1::text), 0))
