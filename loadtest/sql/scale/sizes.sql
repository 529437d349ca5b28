-- The tables with the most bytes: rows as the planner believes, the table's own bytes and those of its indexes.
select relid::regclass::text as name, greatest(reltuples, 0)::bigint as rows, pg_table_size(relid) as table_bytes,
       pg_indexes_size(relid) as index_bytes
  from pg_stat_user_tables join pg_class on pg_class.oid = relid
 order by pg_total_relation_size(relid) desc
 limit $1
