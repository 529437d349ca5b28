-- Names the clones $4 to $5 (excluded) of the payment $1, spread over the campaigns $2; $3 tells this fill from others.
-- Identifiers are UUIDv7 that ascend with the number, about as the server would have made them.
insert into clones
select number,
       (stamp || '7' || substr(hash, 1, 3) || 'a' || substr(hash, 4, 15))::uuid,
       (stamp || '7' || substr(hash, 1, 3) || 'b' || substr(hash, 4, 15))::uuid,
       'pi_fill_' || $3 || '_' || number,
       ($2::uuid[])[1 + number % cardinality($2::uuid[])],
       'fill-' || $3 || '-' || number || '@load.invalid'
  from generate_series($4::bigint, $5::bigint - 1) as series(number),
       lateral (select substr(replace($1::text, '-', ''), 1, 8) || lpad(to_hex((number / 16) % 65536), 4, '0') as stamp,
                       md5($3 || number) as hash) as made
