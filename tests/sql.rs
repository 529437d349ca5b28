//! The statements: all of them fit the schema, all of them are used, none of them reads a whole table of money.

use std::path::{Path, PathBuf};
use std::time::Duration;

use careforall::store::{Store, pool};
use tokio_postgres::Client;

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn files_below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            files.push(path);
        }
    }
    files
}

fn queries() -> Vec<PathBuf> {
    files_below(&Path::new(ROOT).join("sql/queries"), "sql")
}

fn query(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join("sql/queries").join(name)).unwrap()
}

#[tokio::test]
async fn every_statement_fits_the_migrated_schema() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    for path in queries() {
        let sql = std::fs::read_to_string(&path).unwrap();
        // A utility statement has no plan to prepare.
        let outcome = if path.ends_with("totals/refresh_view.sql") {
            client.batch_execute(&sql).await
        } else {
            client.prepare(&sql).await.map(drop)
        };
        assert!(outcome.is_ok(), "{}: {outcome:?}", path.display());
    }
}

#[test]
fn every_statement_is_used() {
    let sources: Vec<String> = files_below(&Path::new(ROOT).join("src"), "rs")
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for path in queries() {
        let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
        assert!(sources.iter().any(|source| source.contains(&name)), "{name} is used nowhere");
    }
}

#[tokio::test]
async fn the_ledger_takes_no_deletion_and_no_truncation() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    for statement in ["delete from payments.ledger_entries", "truncate payments.ledger_entries"] {
        let refusal = client.batch_execute(statement).await.unwrap_err();
        let message = refusal.as_db_error().unwrap().message().to_owned();
        assert!(message.contains("append-only"), "{statement}: {message}");
    }
}

/// Fifty thousand payments of a hundred campaigns with all that belongs to them. Of a few thousand rows, the planner
/// rather reads a whole table than follow the hundred rows that it expects of any JSON parameter.
const FIFTY_THOUSAND: &str = "
    insert into donations.campaigns (id, slug, title, currency, status, created_at, updated_at)
    select ('00000000-0000-7000-8000-' || lpad(to_hex(c), 12, '0'))::uuid, 'c' || c, 'C', 'EUR', 'ACTIVE', now(), now()
      from generate_series(1, 100) c;
    insert into payments.payment_transactions (id, donation_id, campaign_id, donor_key, amount_minor, currency,
                                               manual_capture, intent_id, status, version, captured_minor, check_at,
                                               created_at, updated_at)
    select ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, gen_random_uuid(),
           ('00000000-0000-7000-8000-' || lpad(to_hex(n % 100 + 1), 12, '0'))::uuid, gen_random_uuid(), 100, 'EUR',
           false, 'pi_' || n, 'CAPTURED', 4, 100, null, now(), now()
      from generate_series(1, 50000) n;
    insert into donations.donations (id, payment_id, campaign_id, amount_minor, currency, donor_name, donor_email,
                                     anonymous, status, version, created_at, updated_at)
    select donation_id, id, campaign_id, amount_minor, currency, 'Jo', 'jo@example.org', false, 'COMPLETED', 4, now(),
           now()
      from payments.payment_transactions;
    insert into payments.ledger_entries (campaign_id, payment_id, kind, amount_minor, currency, donations_delta,
                                         donors_delta, version, created_at)
    select campaign_id, id, 'CAPTURE', 100, 'EUR', 1, 1, 4, now() from payments.payment_transactions;
    insert into payments.payment_state_history (payment_id, move_id, at, kind, source, verdict, reason, to_status, version)
    select id, gen_random_uuid(), now(), 'test', 'system', 'applied', 'test', 'CAPTURED', step
      from payments.payment_transactions, generate_series(1, 4) as step;
    insert into donations.outbox_events (id, aggregate_id, partition, event_type, body, created_at)
    select gen_random_uuid(), id, 3, 'payment.completed', '{}', now() from payments.payment_transactions;
    insert into notifications.notifications (id, event_id, kind, channel, recipient, donation_id, payment_id,
                                             amount_minor, currency, status, attempts, next_attempt_at, created_at)
    select id, id, 'PAYMENT_CONFIRMED', 'EMAIL', 'jo@example.org', donation_id, id, 100, 'EUR',
           case when right(id::text, 1) = '0' then 'PENDING' else 'SENT' end, 1, now(), now()
      from payments.payment_transactions;
    insert into notifications.delivery_logs (notification_id, attempt, at, outcome)
    select id, 1, now(), 'ACCEPTED' from notifications.notifications;";
/// Not in the transaction that wrote the lines: their snapshot does not see its own.
const REFRESHED: &str = "refresh materialized view payments.campaign_totals; analyze;";

/// The plan that is used whatever the parameters are.
async fn plan(client: &Client, sql: &str, arguments: &str) -> String {
    client.batch_execute("set plan_cache_mode = force_generic_plan").await.unwrap();
    client.batch_execute(&format!("prepare it as {sql}")).await.unwrap();
    let messages = client.simple_query(&format!("explain execute it({arguments})")).await.unwrap();
    client.batch_execute("deallocate it").await.unwrap();
    let line = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn no_hot_statement_reads_a_whole_table() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    client.batch_execute(FIFTY_THOUSAND).await.unwrap();
    client.batch_execute(REFRESHED).await.unwrap();
    let campaign = "'00000000-0000-7000-8000-000000000001'";
    let payment = "'00000000-0000-7000-9000-000000000001'";
    let empty = vec!["'{}'"; 56].join(", ");
    let hot = [
        ("totals/read_totals.sql", campaign.to_owned()),
        ("totals/write_checkpoint.sql", format!("{campaign}, now()")),
        ("donations/list_wall.sql", format!("{campaign}, null, 20")),
        ("payments/load_payment.sql", payment.to_owned()),
        ("payments/find_by_intent.sql", "'pi_1'".to_owned()),
        ("payments/load_timeline.sql", format!("{payment}, 0, 100")),
        ("payments/move_payments.sql", empty),
        ("outbox/claim_events.sql", "'{0,1,2,3}', now(), 500".to_owned()),
        ("notices/claim_messages.sql", "'EMAIL', 1, now(), 16, '{}', '{}'".to_owned()),
        ("notices/claim_callbacks.sql", "'{}', '{}', 1, now()".to_owned()),
        ("notices/find_free_numbers.sql", "'EMAIL', 1".to_owned()),
        ("notices/release_claims.sql", "'EMAIL', '{1}', now(), 32".to_owned()),
        ("notices/settle_attempts.sql", "'{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'".to_owned()),
        ("notices/list_attempts.sql", format!("{payment}, 100")),
        ("notices/record_feedback.sql", format!("'EMAIL', {payment}, '{{x}}', 'SENT', '', now(), ''")),
        ("notices/resend_notice.sql", format!("{payment}, {payment}, now(), '{{}}', '', '{{}}'")),
        ("notices/measure.sql", "now()".to_owned()),
        ("notices/replay_dead.sql", "null, now(), 1000".to_owned()),
        ("notices/discard_dead.sql", "null, 1000".to_owned()),
        ("outbox/list_dead.sql", "0, 100".to_owned()),
        ("outbox/replay_events.sql", "null, 1000".to_owned()),
        ("outbox/discard_events.sql", "'{1}', now(), ''".to_owned()),
        ("donations/load_donation.sql", payment.to_owned()),
        ("donors/list_donations.sql", "'jo@example.org', null, 20".to_owned()),
        ("donors/enqueue_link.sql", format!("{payment}, 'jo@example.org', now(), '', 3")),
        ("donors/find_link.sql", payment.to_owned()),
    ];
    let tables = [
        "payment_transactions",
        "ledger_entries",
        "outbox_events",
        "donations",
        "payment_state_history",
        "notifications",
        "delivery_logs",
    ];
    for (name, arguments) in hot {
        let plan = plan(&client, &query(name), &arguments).await;
        for table in tables {
            assert!(!plan.contains(&format!("Seq Scan on {table} ")), "{name} reads all of {table}:\n{plan}");
        }
    }
}

#[tokio::test]
async fn the_list_of_flagged_payments_reads_nothing_of_the_others() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    client.batch_execute(FIFTY_THOUSAND).await.unwrap();
    client.batch_execute("analyze payments.payment_transactions").await.unwrap();
    // Planned for the filters that are given, as the program has it done.
    let given = ["null", "null", "null", "null", "true", "20"];
    let sql = given
        .iter()
        .enumerate()
        .fold(query("payments/list_payments.sql"), |sql, (at, value)| sql.replace(&format!("${}", at + 1), value));
    let rows = client.query(&format!("explain (format json) {sql}"), &[]).await.unwrap();
    let plan: serde_json::Value = rows[0].get(0);
    assert!(plan.to_string().contains("payment_transactions_flagged"), "{plan:#}");
}

#[tokio::test]
async fn a_statement_that_was_given_up_holds_up_nobody_after_it() {
    let setup = Setup::new().await;
    let store = Store::new(setup.database.url().parse().unwrap()).unwrap();
    let backend = async || {
        let client = store.pools.reader().await.unwrap();
        pool::query(&client, "select pg_backend_pid()", &[]).await.unwrap()[0].get::<_, i32>(0)
    };
    let first = backend().await;
    assert_eq!(backend().await, first, "a connection is used again");
    let client = store.pools.reader().await.unwrap();
    let asleep = pool::query(&client, "select pg_sleep(15)::text", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(50), asleep).await.is_err());
    drop(client);
    assert_ne!(backend().await, first, "it would have answered after the statement that nobody waits for");
}

#[tokio::test]
async fn totals_are_read_from_indexes_alone_and_a_live_read_touches_only_what_no_checkpoint_saw() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    client.batch_execute(FIFTY_THOUSAND).await.unwrap();
    client.batch_execute(REFRESHED).await.unwrap();
    let campaign = "'00000000-0000-7000-8000-000000000001'";
    let checkpoint = query("totals/write_checkpoint.sql").replace("$1", campaign).replace("$2", "now()");
    // The view saw the first 500 lines; 40 come after it, then a checkpoint, then 40 more.
    let newer = format!(
        "insert into payments.ledger_entries (campaign_id, payment_id, kind, amount_minor, currency, donations_delta,
                                              donors_delta, version, created_at)
         select {campaign}, gen_random_uuid(), 'CAPTURE', 100, 'EUR', 1, 1, 4, now() from generate_series(1, 40)"
    );
    let scans = async || {
        client.batch_execute("vacuum (analyze) payments.ledger_entries").await.unwrap();
        let sql = query("totals/read_totals.sql").replace("$1", campaign);
        let explained = format!("explain (analyze, format json, timing off) {sql}");
        let rows = client.query(&explained, &[]).await.unwrap();
        let plan: serde_json::Value = rows[0].get(0);
        let mut scans = Vec::new();
        collect_scans(&plan[0]["Plan"], "ledger_entries", &mut scans);
        scans
    };
    // A transaction of another test that is under way makes snapshots look back behind it: then it is looked at once more.
    let reads = async |statement: &str, rows: i64| {
        wait_until(&format!("{rows} lines are read after {statement:.40}"), DEADLINE, async || {
            let scans = scans().await;
            assert!(scans.iter().all(|(kind, _)| kind == "Index Only Scan"), "{scans:?}");
            if scans.iter().map(|(_, rows)| rows).sum::<i64>() == rows {
                return true;
            }
            client.batch_execute(statement).await.unwrap();
            false
        })
        .await;
    };
    let refresh = "refresh materialized view payments.campaign_totals";
    reads(refresh, 0).await;
    client.batch_execute(&newer).await.unwrap();
    reads("select 1", 40).await;
    client.batch_execute(&checkpoint).await.unwrap();
    reads(&checkpoint, 0).await;
    client.batch_execute(&newer).await.unwrap();
    reads("select 1", 40).await;
}

/// How the plan reads a table, and how many of its rows it read.
fn collect_scans(plan: &serde_json::Value, table: &str, found: &mut Vec<(String, i64)>) {
    if plan["Relation Name"] == table {
        let kind = plan["Node Type"].as_str().unwrap().to_owned();
        let rows = plan["Actual Rows"].as_i64().unwrap() + plan["Rows Removed by Filter"].as_i64().unwrap_or(0);
        found.push((kind, rows));
    }
    for part in plan["Plans"].as_array().into_iter().flatten() {
        collect_scans(part, table, found);
    }
}

#[tokio::test]
async fn plans_that_are_made_while_the_tables_are_empty_go_by_keys_too() {
    let setup = Setup::new().await;
    let pools = careforall::store::pool::Pools::new(setup.database.url().parse().unwrap()).unwrap();
    let client = pools.writer().await.unwrap();
    let hot = [
        "donations/create_donations.sql",
        "payments/move_payments.sql",
        "payments/load_payment.sql",
        "payments/find_by_intent.sql",
        "idempotency/store_answers.sql",
        "idempotency/load_answer.sql",
        "notices/record_notices.sql",
        "notices/claim_messages.sql",
        "notices/settle_attempts.sql",
        "totals/read_totals.sql",
        "audit/record_facts.sql",
    ];
    let large = ["payment_transactions", "donations", "payment_state_history", "ledger_entries", "idempotency_keys"];
    let large = large.into_iter().chain(["notifications", "delivery_logs", "audit_logs"]);
    let large: Vec<&str> = large.collect();
    client.batch_execute("set plan_cache_mode = force_generic_plan").await.unwrap();
    for name in hot {
        let sql = query(name);
        let parameters = (1..).take_while(|number| sql.contains(&format!("${number}"))).count();
        client.batch_execute(&format!("prepare it as {sql}")).await.unwrap();
        let nulls = vec!["null"; parameters].join(", ");
        let rows = client.query(&format!("explain (format json) execute it({nulls})"), &[]).await.unwrap();
        client.batch_execute("deallocate it").await.unwrap();
        let plan: serde_json::Value = rows[0].get(0);
        if name == "payments/move_payments.sql" {
            assert!(!plan.to_string().contains("Join Filter"), "each row of a batch is compared with each: {plan}");
        }
        scans_go_by_keys(&plan[0]["Plan"], &large, name);
    }
}

#[tokio::test]
async fn a_live_read_of_a_long_ledger_starts_no_workers() {
    let setup = Setup::new().await;
    let filler = setup.database.connect().await;
    filler.batch_execute(FIFTY_THOUSAND).await.unwrap();
    filler.batch_execute("vacuum analyze payments.ledger_entries").await.unwrap();
    let pools = careforall::store::pool::Pools::new(setup.database.url().parse().unwrap()).unwrap();
    let client = pools.writer().await.unwrap();
    let campaign = "'00000000-0000-7000-8000-000000000001'";
    // As tempting as with a million lines.
    let cheap = "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_index_scan_size = 0";
    client.batch_execute(cheap).await.unwrap();
    let ours = plan(&client, &query("totals/read_totals.sql"), campaign).await;
    assert!(!ours.contains("Gather") && ours.contains("ledger_entries_unseen"), "{ours}");
    client.batch_execute("set max_parallel_workers_per_gather = 2").await.unwrap();
    let usual = plan(&client, &query("totals/read_totals.sql"), campaign).await;
    assert!(usual.contains("Gather"), "otherwise nothing was shown: {usual}");
}

/// Every scan of a large table has a condition on its index.
fn scans_go_by_keys(plan: &serde_json::Value, large: &[&str], name: &str) {
    let is_scan = plan["Node Type"].as_str().is_some_and(|kind| kind.ends_with("Scan"));
    if is_scan && large.iter().any(|table| plan["Relation Name"] == *table) {
        let goes_by_key = !plan["Index Cond"].is_null() || !plan["Recheck Cond"].is_null();
        assert!(goes_by_key, "{name} reads all of {}: {plan:#}", plan["Relation Name"]);
    }
    for part in plan["Plans"].as_array().into_iter().flatten() {
        scans_go_by_keys(part, large, name);
    }
}

#[tokio::test]
async fn the_oldest_event_of_the_outbox_is_one_that_may_leave() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    let measure = async || {
        let row = client.query_one(&query("outbox/measure.sql"), &[]).await.unwrap();
        let oldest: Option<time::OffsetDateTime> = row.get("oldest");
        (row.get::<_, i64>("waiting"), row.get::<_, i64>("dead"), oldest.map(|oldest| oldest.unix_timestamp()))
    };
    // The payment, the second in which it was committed, and what became of it since.
    let event = async |payment: u8, second: u32, fate: &str| {
        let sql = format!(
            "insert into donations.outbox_events (id, aggregate_id, partition, event_type, body, created_at, attempts,
                                                  next_attempt_at, dead_at)
             select gen_random_uuid(), '00000000-0000-7000-8000-0000000000{payment:02}', 0, 'payment.completed', '{{}}',
                    to_timestamp({second}), {fate}"
        );
        client.batch_execute(&sql).await.unwrap();
    };
    assert_eq!(measure().await, (0, 0, None));
    event(1, 10, "8, null, to_timestamp(11)").await;
    event(1, 20, "0, null, null").await;
    assert_eq!(measure().await, (2, 1, None), "one is set aside, and holds the other back");
    event(2, 30, "1, to_timestamp(500), null").await;
    event(2, 40, "0, null, null").await;
    assert_eq!(measure().await, (4, 1, Some(500)), "it waits from then on");
    event(3, 50, "0, null, null").await;
    event(4, 60, "0, null, null").await;
    assert_eq!(measure().await, (6, 1, Some(50)));
}
