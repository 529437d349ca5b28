//! Backup and restore as an operator does them: `deploy/backup/backup` under load, `deploy/backup/restore` elsewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::cluster::{Cluster, said};
use crate::support::crowd::{books_hold, completed};
use crate::support::services::{create_database, wait_until};
use crate::support::tools::{ROOT, file, tool};
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
        self.back_up_as(database_url, |_| {}).await
    }

    async fn back_up_as(&self, database_url: &str, change: impl FnOnce(&mut Command)) -> Output {
        let mut command = Command::new(Path::new(ROOT).join("deploy/backup/backup"));
        command.env("DATABASE_URL", database_url).env("BACKUP_DIR", self.directory.path());
        command.env("BACKUP_TEXTFILE_DIR", self.directory.path().join("textfile"));
        change(&mut command);
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
    let put = |name: String| {
        let file = shelf.directory.path().join(name);
        std::fs::write(file.with_extension("dump.sha256"), "").unwrap();
        std::fs::write(file, "").unwrap();
    };
    for day in 10..30 {
        put(format!("weekly/2026W{day}-careforall-202601{day}T000000Z.dump"));
        // Somebody who takes one after the other pushes no earlier day out.
        for hour in [0, 7, 23] {
            put(format!("daily/careforall-202601{day}T{hour:02}0000Z.dump"));
        }
    }
    std::fs::write(shelf.directory.path().join("daily/careforall-20260101T000000Z.dump.sha256"), "").unwrap();
    assert!(shelf.back_up(&setup.database.url()).await.status.success());
    let first = shelf.backups("daily").pop().unwrap();
    let at_midnight =
        first.with_file_name(format!("{}T000000Z.dump", &first.file_stem().unwrap().to_str().unwrap()[..19]));
    std::fs::rename(first.with_extension("dump.sha256"), at_midnight.with_extension("dump.sha256")).unwrap();
    std::fs::rename(&first, &at_midnight).unwrap();
    let first = at_midnight;
    assert!(shelf.back_up(&setup.database.url()).await.status.success());
    let (mut daily, weekly) = (shelf.backups("daily"), shelf.backups("weekly"));
    let is_of_today = daily.contains(&first);
    assert!(is_of_today, "the one from before the upgrade stays until tomorrow");
    daily.retain(|backup| *backup != first);
    assert_eq!((daily.len(), weekly.len()), (14, 8), "{daily:?} {weekly:?}");
    for kept in &daily[..13] {
        assert!(kept.to_str().unwrap().ends_with("T230000Z.dump"), "the last of its day: {kept:?}");
    }
    assert!(!shelf.directory.path().join("daily/careforall-20260101T000000Z.dump.sha256").exists());
    for kept in daily.iter().chain(&weekly) {
        assert!(kept.with_extension("dump.sha256").is_file(), "{kept:?}");
    }
    assert!(daily[0].to_str().unwrap().contains("20260117"), "the oldest went: {daily:?}");
    assert!(std::fs::metadata(&daily[13]).unwrap().len() > 0, "the newest stayed");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&daily[13]).unwrap().permissions().mode() & 0o077, 0, "nobody else may read it");
}

/// A directory for `PATH` with a program that does `first`, in a shell, and then what it is called for.
fn wrapped(program: &str, first: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let real = tool(program).unwrap();
    let file = directory.path().join(program);
    std::fs::write(&file, format!("#!/bin/sh\n{first}\nexec {} \"$@\"\n", real.display())).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn path_with(directory: &tempfile::TempDir) -> String {
    format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn the_databases_password_is_in_no_command_line_and_reaches_the_server_all_the_same() {
    if tool("pg_dump").is_none() {
        return;
    }
    let setup = Setup::new().await;
    let shelf = Shelf::new();
    let seen = shelf.directory.path().join("seen");
    let look = format!(
        "{{ printf '%s\\n' \"$(printf %s \"$*\" | tr '\\n' ' ')\"; stat -c '%a' \"$PGPASSFILE\"; cat \"$PGPASSFILE\"; }} >>{}",
        seen.display()
    );
    let url = setup.database.url().replacen("postgres@", "postgres:hun:ter%32%5c%2f@", 1);
    assert!(url.contains("hun:ter"), "{url}");
    let dump = wrapped("pg_dump", &look);
    let output = shelf
        .back_up_as(&url, |command| {
            command.env("PATH", path_with(&dump));
        })
        .await;
    assert!(output.status.success(), "{}", said(&output));
    let psql = wrapped("psql", &look);
    let mut restore = Command::new(Path::new(ROOT).join("deploy/backup/restore"));
    restore.arg(shelf.backups("daily").pop().unwrap()).env("DATABASE_URL", &url).env("PATH", path_with(&psql));
    let output = run(restore).await;
    assert!(said(&output).contains("restore into an empty one"), "{}", said(&output));
    let seen = std::fs::read_to_string(&seen).unwrap();
    let lines: Vec<&str> = seen.lines().collect();
    for told in lines.chunks(3) {
        assert!(told[0].contains("--dbname=postgres") && !told[0].contains("ter"), "{}", told[0]);
        assert_eq!(told[1..], ["600", r"*:*:*:*:hun\:ter2\\/"]);
    }
    assert_eq!(lines.len(), 6, "{seen}");
}

#[tokio::test]
async fn what_has_the_name_of_a_backup_has_its_sum_wherever_it_was_interrupted() {
    if tool("pg_dump").is_none() {
        return;
    }
    let setup = Setup::new().await;
    for step in 1..=4 {
        let shelf = Shelf::new();
        let count = shelf.directory.path().join("count");
        // The machine ends before step number `step` of those that give names.
        let die = format!("echo >>{0}; [ $(wc -l <{0}) -lt {step} ] || exit 1", count.display());
        let mv = wrapped("mv", &die);
        let output = shelf
            .back_up_as(&setup.database.url(), |command| {
                command.env("PATH", path_with(&mv));
            })
            .await;
        assert!(!output.status.success(), "{}", said(&output));
        for dump in shelf.backups("daily").iter().chain(&shelf.backups("weekly")) {
            let mut check = Command::new("sha256sum");
            check.arg("-c").arg(dump.with_extension("dump.sha256").file_name().unwrap());
            let sum = check.current_dir(dump.parent().unwrap()).output().unwrap();
            assert!(sum.status.success(), "{}", said(&sum));
        }
        assert_eq!(shelf.metrics(), "");
        assert!(shelf.back_up(&setup.database.url()).await.status.success(), "and the next one goes through");
        assert_eq!(shelf.backups("weekly").len(), 1, "step {step}");
    }
}

#[tokio::test]
async fn with_the_rights_of_its_unit_it_writes_into_the_exporters_directory() {
    let Some(setpriv) = tool("setpriv").filter(|_| rustix::process::geteuid().is_root()) else { return };
    if tool("pg_dump").is_none() {
        return;
    }
    let unit = file("deploy/systemd/careforall-backup.service");
    let rights = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("bounded");
    let rights: String = rights.to_lowercase().split_whitespace().map(|it| it.replace("cap_", ",+")).collect();
    let setup = Setup::new().await;
    let shelf = Shelf::new();
    let theirs = shelf.directory.path().join("textfile");
    std::os::unix::fs::chown(&theirs, Some(65_534), Some(65_534)).unwrap();
    let mut command = Command::new(setpriv);
    command.args([format!("--bounding-set=-all{rights}"), "--inh-caps=-all".to_owned()]);
    command.arg(Path::new(ROOT).join("deploy/backup/backup")).env("DATABASE_URL", setup.database.url());
    command.env("BACKUP_DIR", shelf.directory.path()).env("BACKUP_TEXTFILE_DIR", theirs);
    let output = run(command).await;
    assert!(output.status.success() && !shelf.metrics().is_empty(), "{}", said(&output));
}
