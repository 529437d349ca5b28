-- Which donations belong to an address. An index over donations would be paid for at every creation; the thank-you
-- message of each donation names both, and is recorded off that path.
create index notifications_donor on notifications.notifications (lower(recipient), donation_id)
    where kind = 'DONATION_RECEIVED' and duplicate_of is null;
-- How many links an address was sent lately.
create index notifications_links on notifications.notifications (lower(recipient), created_at)
    where kind = 'DONOR_HISTORY';
