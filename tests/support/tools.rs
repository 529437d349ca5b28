//! Programs of others that some tests need: nginx, promtool, shellcheck, pg_dump, initdb.
//!
//! `make test` installs them. Where one is missing its tests say so and pass, unless `TEST_TOOLS=required`.

use std::path::{Path, PathBuf};

/// The repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where administrators' programs lie, which are not in everybody's `PATH`.
const MORE_PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Where `name` lies; `None`, with a line that says so, where it is missing.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(MORE_PLACES.map(PathBuf::from)).chain(postgres_places());
    let found = places.map(|place| place.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var("TEST_TOOLS").is_ok_and(|value| value == "required");
        assert!(!required, "{name} is missing: run scripts/install-server-programs");
        eprintln!("SKIPPED: {name} is missing; `make test` installs it");
    }
    found
}

/// Debian keeps a server's programs by version, the newest first.
fn postgres_places() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.into_iter().rev().collect()
}

/// The text of a file of the repository.
pub fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
