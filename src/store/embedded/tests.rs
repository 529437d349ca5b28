//! The private cluster against the real server programs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::*;

/// A directory that every user can reach, as a data directory usually is.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    dir
}

fn set_mode(dir: &Path, mode: u32) {
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
}

async fn start(dir: &Path) -> Embedded {
    Embedded::start(dir, EmbeddedSettings::default()).await.unwrap()
}

async fn run(embedded: &Embedded, sql: &str) -> Vec<String> {
    let (client, connection) = embedded.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let messages = client.simple_query(sql).await.unwrap();
    let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_cold_start_a_stop_and_a_warm_start() {
    let dir = open_dir();
    let first = start(dir.path()).await;
    run(&first, "create table gift (amount int); insert into gift values (700)").await;
    first.stop().await.unwrap();

    let second = start(dir.path()).await;
    assert_eq!(run(&second, "select amount from gift").await, ["700"]);
    assert_eq!(second.cluster_dir(), dir.path().canonicalize().unwrap().join("postgres"));
    second.stop().await.unwrap();
    assert!(!dir.path().join("postgres/postmaster.pid").exists());
}

#[tokio::test]
async fn nothing_listens_on_tcp_and_durability_is_on() {
    let dir = open_dir();
    let embedded = start(dir.path()).await;
    for (setting, value) in [("listen_addresses", ""), ("fsync", "on"), ("synchronous_commit", "on")] {
        assert_eq!(run(&embedded, &format!("show {setting}")).await, [value], "{setting}");
    }
    let socket_dir = fs::metadata(embedded.socket_dir()).unwrap();
    assert_eq!(socket_dir.mode() & 0o777, 0o700);
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_a_crashed_run_left_behind_is_adopted_and_stopped() {
    let dir = open_dir();
    let crashed = start(dir.path()).await;
    let pid = crashed.pid();
    drop(crashed);

    let next = start(dir.path()).await;
    assert_eq!(next.pid(), pid);
    assert_eq!(run(&next, "select 1").await, ["1"]);
    next.stop().await.unwrap();
    assert!(!dir.path().join("postgres/postmaster.pid").exists());
}

#[tokio::test]
async fn a_postmaster_that_was_killed_is_followed_by_a_new_one() {
    let dir = open_dir();
    let killed = start(dir.path()).await;
    run(&killed, "create table gift (amount int); insert into gift values (700)").await;
    kill_process(Pid::from_raw(killed.pid().unwrap()).unwrap(), Signal::KILL).unwrap();
    drop(killed);

    let next = start(dir.path()).await;
    assert_eq!(run(&next, "select amount from gift").await, ["700"]);
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused_by_name_and_may_join_instead() {
    let dir = open_dir();
    let first = start(dir.path()).await;

    let refusal = Embedded::start(dir.path(), EmbeddedSettings::default()).await.unwrap_err().to_string();
    assert!(refusal.contains(&*dir.path().to_string_lossy()), "{refusal}");
    assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");

    let guest = Embedded::join(dir.path(), EmbeddedSettings::default()).await.unwrap();
    assert_eq!(run(&guest, "select 1").await, ["1"]);
    guest.stop().await.unwrap();
    assert_eq!(run(&first, "select 2").await, ["2"]);
    first.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_joins_where_nobody_serves_starts_the_cluster() {
    let dir = open_dir();
    let guest = Embedded::join(dir.path(), EmbeddedSettings::default()).await.unwrap();
    assert_eq!(run(&guest, "select 1").await, ["1"]);
    guest.stop().await.unwrap();
    assert!(!dir.path().join("postgres/postmaster.pid").exists());
}

#[tokio::test]
async fn a_pid_file_whose_number_was_given_to_a_stranger_does_not_prevent_the_start() {
    let dir = open_dir();
    start(dir.path()).await.stop().await.unwrap();
    let cluster = dir.path().join("postgres");
    let owner = fs::metadata(&cluster).unwrap();
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("600").current_dir("/");
    if is_root() {
        sleep.uid(owner.uid()).gid(owner.gid());
    }
    let mut stranger = sleep.spawn().unwrap();
    let stale = format!("{}\n{}\n1700000000\n5432\n/nowhere\n\n0 0\nready\n", stranger.id(), cluster.display());
    fs::write(cluster.join("postmaster.pid"), stale).unwrap();

    let embedded = start(dir.path()).await;
    assert_eq!(run(&embedded, "select 1").await, ["1"]);
    embedded.stop().await.unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives on");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn half_a_cluster_that_a_kill_left_behind_is_thrown_away() {
    let dir = open_dir();
    fs::create_dir_all(dir.path().join("postgres.new/base")).unwrap();
    let embedded = start(dir.path()).await;
    assert_eq!(run(&embedded, "select 1").await, ["1"]);
    assert!(!dir.path().join("postgres.new").exists());
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_served_from_tmp() {
    let dir = open_dir();
    let long = dir.path().join("x".repeat(100));
    let embedded = start(&long).await;
    assert!(embedded.socket_dir().starts_with("/tmp"));
    assert_eq!(run(&embedded, "select 1").await, ["1"]);
    let socket_dir = embedded.socket_dir().to_owned();
    embedded.stop().await.unwrap();
    fs::remove_dir_all(socket_dir).unwrap();
}

#[tokio::test]
async fn below_a_home_that_the_servers_user_cannot_reach_the_cluster_lies_elsewhere_and_a_note_says_so() {
    if !is_root() {
        return;
    }
    let (private, fallback) = (open_dir(), open_dir());
    set_mode(private.path(), 0o700);
    let data_dir = private.path().join("data");
    let settings = EmbeddedSettings { fallback_dir: fallback.path().to_owned(), ..EmbeddedSettings::default() };

    let first = Embedded::start(&data_dir, settings.clone()).await.unwrap();
    assert!(first.cluster_dir().starts_with(fallback.path()));
    run(&first, "create table gift (amount int)").await;
    first.stop().await.unwrap();
    let note = fs::read_to_string(data_dir.join("postgres.location")).unwrap();
    assert!(note.starts_with(&*fallback.path().to_string_lossy()), "{note}");

    let second = Embedded::start(&data_dir, settings).await.unwrap();
    assert_eq!(run(&second, "select count(*) from gift").await, ["0"]);
    second.stop().await.unwrap();
}
