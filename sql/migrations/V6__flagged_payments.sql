-- What a person is to look at, newest first: few of very many, and mostly none, which without this is found out by reading all.
-- A large installation makes it before the upgrade, without holding anybody up:
-- create index concurrently if not exists payment_transactions_flagged on payments.payment_transactions (id)
--     where flag is not null
create index if not exists payment_transactions_flagged on payments.payment_transactions (id) where flag is not null;
