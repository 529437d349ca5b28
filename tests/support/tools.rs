//! Programs of others that some tests need: nginx, promtool, shellcheck, pg_dump, Docker's compose and so on.
//!
//! `make test` installs them. Where one is missing its tests say so and pass, unless `TEST_TOOLS=required`.

use std::path::{Path, PathBuf};

use uuid::Uuid;

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
        skipped(name, "scripts/install-server-programs");
    }
    found
}

/// The same of what scripts/make-test-venv installs.
pub fn venv_tool(name: &str) -> Option<PathBuf> {
    let file = Path::new(ROOT).join("target/test-venv/bin").join(name);
    if !file.is_file() {
        skipped(name, "scripts/make-test-venv");
        return None;
    }
    Some(file)
}

fn skipped(name: &str, installer: &str) {
    let required = std::env::var("TEST_TOOLS").is_ok_and(|value| value == "required");
    assert!(!required, "{name} is missing: run {installer}");
    eprintln!("SKIPPED: {name} is missing; `make test` installs it");
}

/// Debian keeps a server's programs by version, the newest first.
fn postgres_places() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.into_iter().rev().collect()
}

/// A port that nobody listens on, below those that the system hands out by itself: with so many connections around, one of
/// those would be taken again before the program that is to have it starts.
pub fn free_port() -> u16 {
    std::iter::repeat_with(|| 20_000 + u16::try_from(Uuid::new_v4().as_u128() % 12_000).expect("it is small"))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("it goes on until there is one")
}

/// The text of a file of the repository.
pub fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
