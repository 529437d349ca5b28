//! Finds the PostgreSQL server programs of this machine: a setting, `PATH`, then the places of the packagers.
//!
//! Deliberately absent: any download. What is not installed is named in the error, with the line that installs it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::EmbeddedError;

/// `pg_current_xact_id` and `drop database … with (force)` appeared in this version.
pub(super) const MINIMUM_MAJOR: u32 = 13;

/// Where packagers put one directory for each major version: parent, the prefix of its entries, the rest of the path.
const PACKAGED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// One installation of the server programs.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    bin_dir: PathBuf,
    major: u32,
}

impl Programs {
    /// The installation that fits a cluster of the `wanted` major version, or the best one for a new cluster.
    ///
    /// Runs programs and reads directories: call it where blocking is allowed.
    pub(super) fn find(bin_dir: Option<&Path>, cluster: &Path, wanted: Option<u32>) -> Result<Self, EmbeddedError> {
        let dirs = bin_dir.map_or_else(candidates, |dir| vec![dir.to_owned()]);
        let mut found = Vec::new();
        for programs in dirs.iter().filter_map(|dir| Self::in_dir(dir)) {
            if wanted.is_none_or(|major| major == programs.major) {
                return Ok(programs);
            }
            found.push(programs.major.to_string());
        }
        Err(match wanted {
            Some(wanted) if !found.is_empty() => {
                EmbeddedError::WrongVersion { cluster: cluster.to_owned(), wanted, found: found.join(", ") }
            }
            _ => EmbeddedError::NoPrograms { searched: listed(&dirs), minimum: MINIMUM_MAJOR },
        })
    }

    /// The path of `initdb`.
    pub(super) fn initdb(&self) -> PathBuf {
        self.bin_dir.join("initdb")
    }

    /// The path of `postgres`.
    pub(super) fn postgres(&self) -> PathBuf {
        self.bin_dir.join("postgres")
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        // A link in PATH leads to the directory where initdb and postgres lie together.
        let postgres = fs::canonicalize(dir.join("postgres")).ok()?;
        let bin_dir = postgres.parent()?.to_owned();
        if !bin_dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
        (major >= MINIMUM_MAJOR).then_some(Self { bin_dir, major })
    }
}

/// The major version in `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
fn major_of(version_line: &str) -> Option<u32> {
    let version = version_line.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let packaged = PACKAGED.iter().flat_map(|(parent, prefix, rest)| newest_first(parent, prefix, rest));
    env::split_paths(&path).filter(|dir| dir.is_absolute()).chain(packaged).collect()
}

fn newest_first(parent: &str, prefix: &str, rest: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.trim_start_matches('@').parse().unwrap_or(0);
            Some((version, entry.path().join(rest)))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

fn listed(dirs: &[PathBuf]) -> String {
    let mut names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    names.dedup();
    names.push("/usr/lib/postgresql/*/bin".to_owned());
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_program_says() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major_of("postgres: command not found"), None);
    }

    #[test]
    fn a_directory_without_the_programs_is_answered_with_what_to_install() {
        let empty = tempfile::tempdir().unwrap();
        let error = Programs::find(Some(empty.path()), Path::new("/c"), None).unwrap_err();
        assert!(error.to_string().contains("apt-get install postgresql"), "{error}");
    }

    #[test]
    fn a_cluster_of_a_version_that_is_not_installed_is_named() {
        let error = Programs::find(None, Path::new("/c"), Some(9)).unwrap_err();
        assert!(error.to_string().contains("apt-get install postgresql-9"), "{error}");
    }
}
