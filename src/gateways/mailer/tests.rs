//! Mails into real files, and over real sockets to a relay that says what it is told to say.

use std::fs;

use time::macros::datetime;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const NOTICE: Uuid = Uuid::from_u128(0x0193_8f00_0000_7000_8000_0000_0000_0001);

fn mail() -> Mail {
    Mail {
        message_id: message_id(NOTICE, "CareForAll <thanks@care.example>"),
        from: "CareForAll <thanks@care.example>".to_owned(),
        to: "Zoë Müller <zoe@example.org>".to_owned(),
        subject: "Thank you – merci".to_owned(),
        text: "Your gift of 7,00 € arrived.\n".to_owned(),
        html: Some("<p>Your gift of 7,00 € arrived.</p>".to_owned()),
        headers: vec![("Auto-Submitted".to_owned(), "auto-generated".to_owned())],
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
    let conversation = tokio::spawn(async move {
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
    });
    (Mailer::from_url(Some(&url), PathBuf::new()).unwrap(), conversation)
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
    assert!(said.contains(&"Date: Sun, 22 Nov 2026 10:00:00 +0000".to_owned()), "{said:?}");
}

#[tokio::test]
async fn the_relays_reply_code_decides_whether_to_try_again() {
    let cases = [
        ("RCPT", "451 4.7.1 greylisted", ("transient", "451")),
        ("MAIL", "421 too busy", ("transient", "421")),
        ("RCPT", "550 5.1.1 <zoe@example.org> unknown", ("permanent", "550")),
        ("DATA", "554 5.7.1 spam", ("permanent", "554")),
        ("MAIL", "530 5.7.0 authentication required", ("transient", "530")),
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
    let mailer = Mailer::from_url(Some(&url), PathBuf::new()).unwrap();
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
    let shown = |url: &str| match Mailer::from_url(Some(url), PathBuf::new()).unwrap() {
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
        let error = Mailer::from_url(Some(url), PathBuf::new()).unwrap_err();
        assert_eq!(code(&error), ("permanent", "settings"), "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_second_try_of_the_same_notice_replaces_the_file_instead_of_doubling_it() {
    let dir = tempfile::tempdir().unwrap();
    let mails = dir.path().join("mails");
    let mailer = Mailer::from_url(None, mails.clone()).unwrap();
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
    let mailer = Mailer::from_url(None, file.path().join("mails")).unwrap();
    assert_eq!(code(&mailer.send(&mail()).await.unwrap_err()), ("transient", "file"));
    assert_eq!(code(&mailer.check().await.unwrap_err()), ("transient", "file"));
}

#[tokio::test]
async fn nothing_smuggles_in_a_header_a_recipient_or_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let mailer = Mailer::from_url(None, dir.path().join("mails")).unwrap();
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
}
