//! Backup and restore as an operator does them: `deploy/backup/backup` under load, `deploy/backup/restore` elsewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::cluster::{Cluster, said};
use crate::support::crowd::{books_hold, completed};
use crate::support::services::{create_database, wait_until};
use crate::support::tools::{ROOT, tool};
use crate::support::{DEADLINE, Setup, TestApp, text};

/// A directory of backups, and one of node_exporter.
struct Shelf {
    directory: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("textfile")).unwrap();
        Self { directory }
    }

    fn backups(&self, kind: &str) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.directory.path().join(kind)).unwrap().map(|file| file.unwrap().path());
        let mut dumps: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|it| it == "dump")).collect();
        dumps.sort();
        dumps
    }

    fn metrics(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("textfile/careforall_backup.prom")).unwrap_or_default()
    }

    async fn back_up(&self, database_url: &str) -> Output {
        let mut command = Command::new(Path::new(ROOT).join("deploy/backup/backup"));
        command.env("DATABASE_URL", database_url).env("BACKUP_DIR", self.directory.path());
        command.env("BACKUP_TEXTFILE_DIR", self.directory.path().join("textfile"));
        run(command).await
    }
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("it runs")
}

async fn restore(database_url: &str, backup: &Path) -> Output {
    let mut command = Command::new(Path::new(ROOT).join("deploy/backup/restore"));
    command.arg(backup).env("DATABASE_URL", database_url).env("CAREFORALL", env!("CARGO_BIN_EXE_careforall"));
    run(command).await
}

/// Donors who give and pay until they are told to stop; those whose gift was completed.
async fn give(app: &TestApp, campaign: &Value, donor: usize, enough: &AtomicBool) -> usize {
    let mut gifts = 0;
    while !enough.load(Ordering::Relaxed) {
        completed(app, campaign, 700, &format!("donor{donor}-{gifts}@example.org")).await;
        gifts += 1;
    }
    gifts
}

#[tokio::test]
async fn a_backup_under_load_is_restored_into_a_fresh_cluster_and_verify_finds_no_difference() {
    if tool("pg_dump").is_none() {
        return;
    }
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    for donor in 0..3 {
        completed(&app, &campaign, 2500, &format!("early{donor}@example.org")).await;
    }
    let before = "select count(*) from donations.donations where status = 'COMPLETED'";
    let (shelf, enough) = (Shelf::new(), AtomicBool::new(false));
    let backing_up = async {
        wait_until("they give", DEADLINE, async || app.count(before).await > 6).await;
        let acknowledged = app.count(before).await;
        let output = shelf.back_up(&app.setup.database.url()).await;
        assert!(output.status.success(), "{}", said(&output));
        let after = app.count(before).await;
        wait_until("they go on giving", DEADLINE, async || app.count(before).await > after).await;
        enough.store(true, Ordering::Relaxed);
        acknowledged
    };
    let (acknowledged, ..) = tokio::join!(
        backing_up,
        give(&app, &campaign, 1, &enough),
        give(&app, &campaign, 2, &enough),
        give(&app, &campaign, 3, &enough)
    );
    let dump = shelf.backups("daily").pop().expect("a backup");
    assert_eq!(shelf.backups("weekly").len(), 1, "the week's first is kept longer");
    assert!(shelf.metrics().contains("\ncareforall_backup_last_success_timestamp_seconds 1"), "{}", shelf.metrics());

    let Some(cluster) = Cluster::start().await else { return app.finish().await };
    let output = restore(&cluster.url(), &dump).await;
    assert!(output.status.success() && said(&output).contains("no difference"), "{}", said(&output));
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let restored: i64 = client.query_one(before, &[]).await.unwrap().get(0);
    assert!(restored >= acknowledged, "{restored} of {acknowledged} gifts that were acknowledged before it began");

    // A replica goes on with it: totals are the ledger's, and the next gift counts.
    let raised: i64 =
        client.query_one("select sum(amount_minor)::bigint from payments.ledger_entries", &[]).await.unwrap().get(0);
    let mut setup = app.setup.clone().with("DATABASE_URL", cluster.url());
    setup.data_dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let successor = setup.start().await;
    let totals = read_totals(&successor, &campaign).await;
    assert_eq!(totals["raised_minor"], raised);
    completed(&successor, &campaign, 300, "late@example.org").await;
    wait_until("it counts", DEADLINE, async || {
        read_totals(&successor, &campaign).await["raised_minor"] == raised + 300
    })
    .await;
    drop(client);
    successor.stop().await;
    drop(cluster);
    books_hold(&app).await;
    app.finish().await;
}

async fn read_totals(app: &TestApp, campaign: &Value) -> Value {
    let (_, totals) = app.get(&format!("/api/v1/campaigns/{}/totals", text(&campaign["id"]))).await;
    totals
}

#[tokio::test]
async fn a_backup_that_was_touched_and_a_database_in_use_are_refused() {
    if tool("pg_dump").is_none() {
        return;
    }
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    completed(&app, &campaign, 2500, "jo@example.org").await;
    let shelf = Shelf::new();
    assert!(shelf.back_up(&app.setup.database.url()).await.status.success());
    let dump = shelf.backups("daily").pop().unwrap();

    let output = restore(&app.setup.database.url(), &dump).await;
    assert!(!output.status.success() && said(&output).contains("restore into an empty one"), "{}", said(&output));

    let empty = create_database(None).await;
    let mut bytes = std::fs::read(&dump).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&dump, &bytes).unwrap();
    let output = restore(&empty.url(), &dump).await;
    assert!(!output.status.success() && said(&output).contains("is not what was backed up"), "{}", said(&output));
    std::fs::remove_file(dump.with_extension("dump.sha256")).unwrap();
    let output = restore(&empty.url(), &dump).await;
    assert!(!output.status.success() && said(&output).contains("sha256 is missing"), "{}", said(&output));

    bytes[middle] ^= 1;
    std::fs::write(&dump, &bytes).unwrap();
    let sum = Command::new("sha256sum").arg(dump.file_name().unwrap()).current_dir(dump.parent().unwrap()).output();
    std::fs::write(dump.with_extension("dump.sha256"), sum.unwrap().stdout).unwrap();
    let output = restore(&empty.url(), &dump).await;
    assert!(output.status.success() && said(&output).contains("no difference"), "{}", said(&output));
    app.finish().await;
}

#[tokio::test]
async fn old_backups_go_and_a_failed_one_tells_nobody_that_it_succeeded() {
    if tool("pg_dump").is_none() {
        return;
    }
    let setup = Setup::new().await;
    let shelf = Shelf::new();
    let output = shelf.back_up("postgres://postgres@127.0.0.1:1/nowhere").await;
    assert!(!output.status.success());
    assert_eq!((shelf.metrics(), shelf.backups("daily").len()), (String::new(), 0));
    for (kind, name) in [("daily", "careforall-202601"), ("weekly", "2026W01-careforall-202601")] {
        for day in 10..30 {
            let file = shelf.directory.path().join(format!("{kind}/{name}{day}T000000Z.dump"));
            std::fs::write(file.with_extension("dump.sha256"), "").unwrap();
            std::fs::write(file, "").unwrap();
        }
    }
    assert!(shelf.back_up(&setup.database.url()).await.status.success());
    let (daily, weekly) = (shelf.backups("daily"), shelf.backups("weekly"));
    assert_eq!((daily.len(), weekly.len()), (14, 8));
    for kept in daily.iter().chain(&weekly) {
        assert!(kept.with_extension("dump.sha256").is_file(), "{kept:?}");
    }
    assert!(daily[0].to_str().unwrap().contains("20260117"), "the oldest went: {daily:?}");
    assert!(std::fs::metadata(&daily[13]).unwrap().len() > 0, "the newest stayed");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&daily[13]).unwrap().permissions().mode() & 0o077, 0, "nobody else may read it");
}
