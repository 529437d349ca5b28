-- Tables of the same shape as ours, with their indexes, that nobody else writes to.
drop schema if exists bench cascade;
create schema bench;
create table bench.donations (like donations.donations including all);
create table bench.payment_transactions (like payments.payment_transactions including all)
