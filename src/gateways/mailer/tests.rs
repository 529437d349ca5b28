//! Mails into real files, over real sockets to a relay that says what it is told to say, and over TLS to a real one.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use time::macros::datetime;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::super::delivery::testing::{Authority, Certified, install_crypto};
use super::smtp::{SmtpRelay, Trust};
use super::*;

const NOTICE: Uuid = Uuid::from_u128(0x0193_8f00_0000_7000_8000_0000_0000_0001);
/// As long as real ones are, with their tokens: a relay must get it whole.
const UNSUBSCRIBE: &str = "<https://care.example/unsubscribe?token=0193c0ffee00700080000000000000010193c0ffee0070008000000000000001>, <mailto:unsubscribe@care.example?subject=0193c0ffee0070008000000000000001>";

fn mail() -> Mail {
    Mail {
        message_id: message_id(NOTICE, "CareForAll <thanks@care.example>"),
        from: "CareForAll <thanks@care.example>".to_owned(),
        to: "Zoë Müller <zoe@example.org>".to_owned(),
        subject: "Thank you – merci".to_owned(),
        text: "Your gift of 7,00 € arrived.\n".to_owned(),
        html: Some("<p>Your gift of 7,00 € arrived.</p>".to_owned()),
        headers: [
            ("Auto-Submitted", "auto-generated"),
            ("List-Unsubscribe", UNSUBSCRIBE),
            ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        written_at: datetime!(2026-11-22 10:00 UTC),
    }
}

fn code(error: &DeliveryError) -> (&'static str, &str) {
    (error.label(), error.code())
}

/// One conversation: every command gets 250, save those that begin with `refused`.
async fn relay(refused: &'static str, reply: &'static str) -> (Mailer, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let conversation = tokio::spawn(converse(listener, refused, reply));
    (Mailer::from_url(Some(&url), &[], PathBuf::new()).unwrap(), conversation)
}

async fn converse(listener: TcpListener, refused: &'static str, reply: &'static str) -> Vec<String> {
    let (stream, _) = listener.accept().await.unwrap();
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut said, mut in_data) = (Vec::new(), false);
    write.write_all(b"220 relay.example ESMTP\r\n").await.unwrap();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = answer_to(&line, &mut in_data, refused, reply);
        said.push(line);
        if write.write_all(answer.as_bytes()).await.is_err() {
            break;
        }
    }
    said
}

fn answer_to(line: &str, in_data: &mut bool, refused: &str, reply: &str) -> String {
    if *in_data {
        *in_data = line != ".";
        return if *in_data { String::new() } else { "250 2.0.0 Ok: queued as 4QX7\r\n".to_owned() };
    }
    if !refused.is_empty() && line.starts_with(refused) {
        return format!("{reply}\r\n");
    }
    match line.split(' ').next() {
        Some("EHLO") => "250-relay.example\r\n250 8BITMIME\r\n".to_owned(),
        Some("DATA") => {
            *in_data = true;
            "354 go on\r\n".to_owned()
        }
        _ => "250 2.1.0 Ok\r\n".to_owned(),
    }
}

#[tokio::test]
async fn a_mail_reaches_the_relay_with_its_headers_and_the_receipt_comes_back() {
    let (mailer, conversation) = relay("", "").await;
    let accepted = mailer.send(&mail()).await.unwrap();
    assert_eq!(accepted.provider_id.as_deref(), Some("4QX7"));
    drop(mailer);
    let said = conversation.await.unwrap();
    assert!(said.iter().any(|line| line.starts_with("RCPT TO:<zoe@example.org>")), "{said:?}");
    assert!(said.contains(&format!("Message-ID: <{NOTICE}@care.example>")), "{said:?}");
    assert!(said.contains(&"Auto-Submitted: auto-generated".to_owned()), "{said:?}");
    assert!(said.contains(&"List-Unsubscribe-Post: List-Unsubscribe=One-Click".to_owned()), "{said:?}");
    let unfolded = said.join("\n").replace("\n ", " ");
    assert!(unfolded.contains(&format!("\nList-Unsubscribe: {UNSUBSCRIBE}\n")), "{unfolded}");
    assert!(said.contains(&"Date: Sun, 22 Nov 2026 10:00:00 +0000".to_owned()), "{said:?}");
}

#[tokio::test]
async fn the_relays_reply_code_decides_whether_to_try_again() {
    let cases = [
        ("RCPT", "451 4.7.1 greylisted", ("transient", "451")),
        ("MAIL", "421 too busy", ("transient", "421")),
        ("RCPT", "550 5.1.1 <zoe@example.org> unknown", ("refused", "550")),
        ("RCPT", "550 <zoe@example.org> unavailable", ("permanent", "550")),
        ("RCPT", "554 5.7.1 <zoe@example.org> relay access denied", ("transient", "554")),
        ("DATA", "554 5.7.1 spam", ("permanent", "554")),
        ("MAIL", "530 5.7.0 authentication required", ("transient", "530")),
        ("MAIL", "550 5.7.1 sender rejected", ("transient", "550")),
    ];
    for (refused, reply, expected) in cases {
        let (mailer, _conversation) = relay(refused, reply).await;
        let error = mailer.send(&mail()).await.unwrap_err();
        assert_eq!(code(&error), expected, "{reply}");
        assert!(!error.to_string().contains("zoe@"), "{error}");
    }
}

#[tokio::test]
async fn a_relay_that_is_away_is_tried_again_and_fails_the_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    drop(listener);
    let mailer = Mailer::from_url(Some(&url), &[], PathBuf::new()).unwrap();
    assert_eq!(code(&mailer.send(&mail()).await.unwrap_err()), ("transient", "connection"));
    assert_eq!(code(&mailer.check().await.unwrap_err()), ("transient", "connection"));
}

#[tokio::test]
async fn a_relay_that_answers_passes_the_check() {
    let (mailer, _conversation) = relay("", "").await;
    mailer.check().await.unwrap();
}

#[tokio::test]
async fn only_loopback_may_be_spoken_to_without_tls() {
    let shown = |url: &str| match Mailer::from_url(Some(url), &[], PathBuf::new()).unwrap() {
        Mailer::Smtp(relay) => relay.encryption(),
        Mailer::Files(_) => unreachable!("a URL was given"),
    };
    assert_eq!(shown("smtp://127.0.0.1:2525"), "none");
    assert_eq!(shown("smtp://[::1]:2525"), "none");
    assert_eq!(shown("smtp://user:secret@smtp.sendgrid.net"), "starttls");
    assert_eq!(shown("smtps://user:secret@smtp.sendgrid.net"), "tls");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_repeating_its_password() {
    for url in ["not a url", "http://u:secret@host", "smtp://", "smtp://u:secret@host?tls=opportunistic"] {
        let error = Mailer::from_url(Some(url), &[], PathBuf::new()).unwrap_err();
        assert_eq!(code(&error), ("permanent", "settings"), "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_second_try_of_the_same_notice_replaces_the_file_instead_of_doubling_it() {
    let dir = tempfile::tempdir().unwrap();
    let mails = dir.path().join("mails");
    let mailer = Mailer::from_url(None, &[], mails.clone()).unwrap();
    mailer.check().await.unwrap();
    let first = mailer.send(&mail()).await.unwrap();
    assert_eq!(mailer.send(&mail()).await.unwrap(), first);
    let names: Vec<_> = fs::read_dir(&mails).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [format!("{NOTICE}@care.example.eml").as_str()]);
    let text = fs::read_to_string(mails.join(&names[0])).unwrap();
    assert!(text.contains("To: =?utf-8?b?") && text.contains("<zoe@example.org>"), "{text}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mailer = Mailer::from_url(None, &[], file.path().join("mails")).unwrap();
    assert_eq!(code(&mailer.send(&mail()).await.unwrap_err()), ("transient", "file"));
    assert_eq!(code(&mailer.check().await.unwrap_err()), ("transient", "file"));
}

#[tokio::test]
async fn nothing_smuggles_in_a_header_a_recipient_or_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let mailer = Mailer::from_url(None, &[], dir.path().join("mails")).unwrap();
    let evil = "x\r\nBcc: eve@example.org";
    let cases = [
        Mail { subject: evil.to_owned(), ..mail() },
        Mail { to: format!("{evil} <zoe@example.org>"), ..mail() },
        Mail { to: "zoe@example.org, eve@example.org".to_owned(), ..mail() },
        Mail { from: "nobody".to_owned(), ..mail() },
        Mail { headers: vec![("X-Note".to_owned(), evil.to_owned())], ..mail() },
        Mail { headers: vec![("X-Note\r\nBcc".to_owned(), "eve@example.org".to_owned())], ..mail() },
        Mail { headers: vec![("Bcc".to_owned(), "eve@example.org".to_owned())], ..mail() },
        Mail { headers: vec![(String::new(), "x".to_owned())], ..mail() },
        Mail { message_id: "../../etc/passwd@x".to_owned(), ..mail() },
        Mail { message_id: format!("a@{evil}"), ..mail() },
        Mail { text: "x".repeat(2 * 1024 * 1024), ..mail() },
    ];
    for case in cases {
        let error = mailer.send(&case).await.unwrap_err();
        assert_eq!(code(&error).0, "permanent", "{error}");
    }
    assert!(!dir.path().join("mails").exists(), "nothing was written");
}

#[test]
fn a_message_id_is_the_notices_own_and_survives_any_sender() {
    assert_eq!(message_id(NOTICE, "a@b.example"), format!("{NOTICE}@b.example"));
    assert_eq!(message_id(NOTICE, "nonsense"), format!("{NOTICE}@localhost"));
    assert_eq!(message_id(NOTICE, "x <a@b c>"), format!("{NOTICE}@localhost"));
    assert_eq!(notice_of(&message_id(NOTICE, "a@b.example")), Some(NOTICE));
    assert_eq!(notice_of(&format!("<{NOTICE}@b.example>")), Some(NOTICE));
    for foreign in ["", "@", "x@y", "LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net", &NOTICE.to_string()] {
        assert_eq!(notice_of(foreign), None, "{foreign}");
    }
}

/// `aiosmtpd` on a free port: says the port first, then each mail that it took.
const REAL_RELAY: &str = r#"
import asyncio, json, ssl, sys
from aiosmtpd.smtp import SMTP
mode, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
class Handler:
    async def handle_DATA(self, server, session, envelope):
        encrypted = server.transport.get_extra_info("ssl_object") is not None
        print(json.dumps([encrypted, envelope.rcpt_tos, envelope.content.decode()]), flush=True)
        return "250 2.0.0 Ok: queued as 4QX7"
def relay():
    starttls = mode == "starttls"
    return SMTP(Handler(), tls_context=context if starttls else None, require_starttls=starttls)
async def serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(relay, "127.0.0.1", 0, ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(serve())
"#;

struct RealRelay {
    port: u16,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
    _dir: tempfile::TempDir,
    _child: Child,
}

impl RealRelay {
    /// `None` where Python's library is not there.
    async fn start(mode: &str, certificate: &Certified) -> Option<Self> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv/bin/python");
        if !python.exists() {
            eprintln!("skipped: {} is not there; scripts/make-test-venv makes it", python.display());
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        fs::write(&chain, certificate.certificate_pem()).unwrap();
        fs::write(&key, certificate.key_pem()).unwrap();
        let mut command = Command::new(python);
        command.args(["-c", REAL_RELAY, mode]).arg(chain).arg(key).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().expect("the relay says its port").parse().unwrap();
        Some(Self { port, lines, _dir: dir, _child: child })
    }

    /// Whether it came over TLS, to whom, and what.
    async fn taken(&mut self) -> (bool, Vec<String>, String) {
        serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
    }
}

fn relay_at(url: &str, root: &Authority) -> Mailer {
    install_crypto();
    // This machine's own relay counts as a foreign one here: nothing is said in the clear.
    let roots = [root.pem()];
    Mailer::Smtp(SmtpRelay::with(url, Trust { plain: |_| false, roots: &roots }, Patience::USUAL).unwrap())
}

#[tokio::test]
async fn a_real_relay_takes_a_mail_over_tls_from_the_first_byte_and_after_starttls() {
    let authority = Authority::new();
    let certificate = authority.certify("localhost");
    for (mode, scheme) in [("tls", "smtps"), ("starttls", "smtp")] {
        let Some(mut relay) = RealRelay::start(mode, &certificate).await else { return };
        let mailer = relay_at(&format!("{scheme}://localhost:{}", relay.port), &authority);
        mailer.check().await.unwrap();
        let accepted = mailer.send(&mail()).await.unwrap();
        assert_eq!(accepted, Accepted { provider_id: Some("4QX7".into()), code: Some("250".into()) });
        let (encrypted, recipients, content) = relay.taken().await;
        assert!(encrypted, "{mode}");
        assert_eq!(recipients, ["zoe@example.org"]);
        let unfolded = content.replace("\r\n", "\n").replace("\n ", " ");
        assert!(unfolded.contains(&format!("\nList-Unsubscribe: {UNSUBSCRIBE}\n")), "{unfolded}");
        assert!(unfolded.contains("multipart/alternative") && unfolded.contains("text/html"), "{unfolded}");
    }
}

#[tokio::test]
async fn a_relay_whose_certificate_does_not_hold_hears_no_mail() {
    let (known, unknown) = (Authority::new(), Authority::new());
    for certificate in [unknown.certify("localhost"), known.certify("relay.example")] {
        for (mode, scheme) in [("tls", "smtps"), ("starttls", "smtp")] {
            let Some(relay) = RealRelay::start(mode, &certificate).await else { return };
            let mailer = relay_at(&format!("{scheme}://localhost:{}", relay.port), &known);
            let error = mailer.send(&mail()).await.unwrap_err();
            assert_eq!(error.label(), "transient", "{error}");
            assert!(["tls", "connection"].contains(&error.code()), "{error}");
        }
    }
}

#[tokio::test]
async fn a_relay_that_offers_no_starttls_hears_no_mail() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://localhost:{}", listener.local_addr().unwrap().port());
    let conversation = tokio::spawn(converse(listener, "", ""));
    let mailer = relay_at(&url, &Authority::new());
    let error = mailer.send(&mail()).await.unwrap_err();
    assert_eq!(code(&error), ("transient", "relay"), "{error}");
    drop(mailer);
    let said = conversation.await.unwrap();
    assert!(said.iter().all(|line| line.starts_with("EHLO") || line.starts_with("QUIT")), "{said:?}");
}
