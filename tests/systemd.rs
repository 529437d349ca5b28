//! The units in `deploy/systemd/`, read by systemd itself.
//!
//! Deliberately absent: running them, which needs a machine that systemd has started.

use std::path::Path;
use std::process::Command;

use crate::support::tools::{ROOT, tool};

/// The units, with programs that are on this machine.
fn units() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(Path::new(ROOT).join("deploy/systemd")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| match line.strip_prefix("ExecStart=") {
            Some(command) => format!("ExecStart=/bin/true {}\n", command.split_once(' ').map_or("", |(_, rest)| rest)),
            None => format!("{line}\n"),
        });
        std::fs::write(directory.path().join(path.file_name().unwrap()), lines.collect::<String>()).unwrap();
    }
    directory
}

#[test]
fn systemd_takes_every_unit_without_a_word() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let units = units();
    let mut files: Vec<_> = std::fs::read_dir(units.path()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    let output = Command::new(analyze).arg("verify").args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains(units.path().to_str().unwrap()), "{said}");
    assert!(!said.to_lowercase().contains("careforall"), "{said}");
}

#[test]
fn what_an_intruder_could_do_is_little() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let units = units();
    // Tenths of systemd's exposure level; a unit without any hardening has 96. The backup may write into directories of others.
    for (unit, most) in [("careforall@.service", 15), ("careforall-backup.service", 25)] {
        let mut command = Command::new(&analyze);
        command.args(["security", "--offline=true", &format!("--threshold={most}")]);
        let output = command.arg(units.path().join(unit)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
