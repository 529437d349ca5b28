//! A real SMTP server over TLS that misbehaves as a mail's recipient says: `misbehaving_relay.py`, on Python's aiosmtpd.
//!
//! `scripts/make-test-venv` installs it. Where it is missing its tests say so and pass, unless `TEST_TOOLS=required`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::tools::ROOT;

/// A mail that the relay took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its `Message-ID`.
    pub message_id: String,
    /// The client's port: one for each connection.
    pub connection: u16,
}

/// A running relay.
pub struct RealRelay {
    /// `smtps://localhost:<port>`.
    pub url: String,
    /// The authority that its certificate is from.
    pub ca_file: PathBuf,
    taken: Arc<Mutex<BTreeMap<String, Vec<Taken>>>>,
    _dir: tempfile::TempDir,
    _child: Child,
}

impl RealRelay {
    /// `None`, with a line that says so, where Python's library is missing.
    pub async fn start() -> Option<Self> {
        let python = Path::new(ROOT).join("target/test-venv/bin/python");
        if !python.exists() {
            let required = std::env::var("TEST_TOOLS").is_ok_and(|value| value == "required");
            assert!(!required, "{} is missing: run scripts/make-test-venv", python.display());
            eprintln!("SKIPPED: {} is missing; scripts/make-test-venv makes it", python.display());
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let files = ["ca.pem", "chain.pem", "key.pem"].map(|name| dir.path().join(name));
        for (file, pem) in files.iter().zip(certificate()) {
            std::fs::write(file, pem).expect("a file");
        }
        let mut command = Command::new(python);
        command.arg(Path::new(ROOT).join("tests/support/misbehaving_relay.py")).args(&files[1..]);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let port = lines.next_line().await.expect("its output").expect("it says its port");
        let taken = Arc::new(Mutex::new(BTreeMap::new()));
        tokio::spawn(listen(lines, Arc::clone(&taken)));
        let [ca_file, ..] = files;
        Some(Self { url: format!("smtps://localhost:{port}"), ca_file, taken, _dir: dir, _child: child })
    }

    /// What it took, by recipient.
    pub fn taken(&self) -> BTreeMap<String, Vec<Taken>> {
        self.taken.lock().expect("no panic").clone()
    }
}

async fn listen(mut lines: Lines<BufReader<ChildStdout>>, taken: Arc<Mutex<BTreeMap<String, Vec<Taken>>>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        let (recipient, message_id, connection) = serde_json::from_str(&line).expect("a line of the relay's");
        let mut taken = taken.lock().expect("no panic");
        let of_one: &mut Vec<Taken> = taken.entry(recipient).or_default();
        of_one.push(Taken { message_id, connection });
    }
}

/// In PEM: an authority, a certificate of its making for localhost, and that one's key.
fn certificate() -> [String; 3] {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    [authority.pem(), certificate.pem(), key.serialize_pem()]
}
