-- Every index with its bytes, how often it was read, and whether it also keeps something unique.
select indexrelid::regclass::text as name, pg_relation_size(indexrelid) as bytes, idx_scan as scans, indisunique as is_unique
  from pg_stat_user_indexes join pg_index using (indexrelid)
 order by pg_relation_size(indexrelid) desc
