//! Parses the command, runs it, and ends with its exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // reqwest takes the process's TLS provider; ring keeps aws-lc and its C build out. It is only set once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ExitCode::from(careforall::cli::run())
}
