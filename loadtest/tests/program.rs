//! The program as a whole: it measures, it audits, and the audit bites. Against the real server on a real database.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Generous: it is for a test that fails.
const DEADLINE: Duration = Duration::from_secs(60);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_careforall-loadtest"));
    command.env_remove("REDIS_URL").env_remove("AMQP_URL").env_remove("CAREFORALL_ADMIN_KEY");
    command.stdin(Stdio::null());
    command
}

/// The program on a server of its own, in a database of its own on the tests' PostgreSQL.
fn on_a_server(words: &[&str]) -> Command {
    let server = PathBuf::from(env!("CARGO_BIN_EXE_careforall-loadtest")).with_file_name("careforall");
    assert!(server.is_file(), "{} is not built: cargo build", server.display());
    let mut command = program();
    command.args(words).arg("--server").arg(server);
    if std::env::var_os("DATABASE_URL").is_none() {
        command.args(["--database-url", "postgres://postgres@127.0.0.1:5432/postgres"]);
    }
    command
}

const SHORT: [&str; 8] = ["--duration", "1", "--warm-up", "0", "--ramp", "0", "--campaigns", "2"];

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_short_run_finds_every_acknowledged_donation_and_writes_its_report() {
    let directory = tempfile::tempdir().unwrap();
    let (json, html) = (directory.path().join("report.json"), directory.path().join("report.html"));
    let mut command = on_a_server(&["run", "mixed", "--rate", "60"]);
    let output = command.args(SHORT).arg("--json").arg(&json).arg("--html").arg(&html).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert!(report["runs"][0]["measures"].as_array().is_some_and(|measures| measures.len() >= 3), "{report}");
    let held = report["audits"][0]["held"].to_string();
    for sentence in ["acknowledged donations: all there", "acknowledged webhooks: all there", "verify: no difference"] {
        assert!(held.contains(sentence), "{held}");
    }
    assert!(std::fs::read_to_string(html).unwrap().contains("<svg"));
}

#[test]
fn a_donation_that_is_lost_behind_the_programs_back_makes_the_run_fail_and_is_named() {
    let mut command = on_a_server(&["run", "create", "--rate", "40", "--lose-one"]);
    let output = command.args(SHORT).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("LOST: 1 of "), "{}", told(&output));
}

#[test]
fn every_hot_path_is_set_beside_itself_on_a_full_database_and_what_fills_it_stands_up_to_the_audit() {
    let mut command = on_a_server(&["run", "scale", "--lines", "300", "--history", "6"]);
    let output = command.args(SHORT).output().unwrap();
    let said = told(&output);
    assert!(output.status.success(), "{said}");
    for path in
        ["create", "new webhook", "duplicate webhook", "donation", "wall", "timeline", "payments", "outbox poll"]
    {
        let line = said.lines().find(|line| line.trim_start().starts_with(path) && line.contains(" → "));
        assert!(line.is_some_and(|line| line.contains('×')), "{path}: {said}");
    }
    for sentence in ["filled with 300 captured payments", "6 history rows each", "indexes that nobody read: "] {
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
    assert!(said.contains("verify: no difference"), "{said}");
}

#[test]
fn a_flooded_server_loses_nothing_and_what_the_generator_did_not_send_is_told_apart() {
    let mut command = on_a_server(&["run", "overload", "--duration", "3", "--campaigns", "2"]);
    let output = command.output().unwrap();
    let said = told(&output);
    // How it fared is for whoever measures; what it acknowledged is there, and everybody was answered.
    for sentence in ["acknowledged donations: all there", "acknowledged webhooks: all there", "verify: no difference"] {
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
    for sentence in ["capacity: ", "counts for nobody", "the server's memory: ", "the generator's own schedule"] {
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
    assert!(!said.contains("LOST") && !said.contains("WRONG"), "{said}");
}

#[test]
fn ctrl_c_ends_the_load_and_what_was_acknowledged_is_audited_and_reported() {
    let mut command = on_a_server(&["run", "lifecycle", "--rate", "20", "--duration", "600"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    // Once lines come, the load is on; they are read to the end so that nobody waits for us.
    let (told, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader};
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(told.send(line)));
    });
    let began = Instant::now();
    while !lines.recv_timeout(DEADLINE).unwrap().contains("in flight") {
        assert!(began.elapsed() < DEADLINE, "no load within {DEADLINE:?}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap();
    let said = told_of(&lines, &output);
    assert!(output.status.success(), "{said}");
    for sentence in ["ended early", "acknowledged donations: all there", "shown as completed: all there"] {
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
}

fn told_of(lines: &std::sync::mpsc::Receiver<String>, output: &Output) -> String {
    lines.try_iter().collect::<Vec<_>>().join("\n") + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_target_that_is_away_or_on_another_machine_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let run = |url: &str| {
        let output = program().args(["run", "create", "--admin-key", "k", "--target", url]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        told(&output)
    };
    assert!(run(&nobody).contains("no connection"), "{}", run(&nobody));
    assert!(run("http://192.0.2.1:8080").contains("--i-own-this-target"));
    assert!(run("ftp://127.0.0.1").contains("must be http://host:port"));
}

#[test]
fn a_word_that_is_none_is_bad_usage() {
    for words in [&["run", "everything"][..], &["run", "create", "--rate", "0"], &[]] {
        assert_eq!(program().args(words).output().unwrap().status.code(), Some(64), "{words:?}");
    }
}
