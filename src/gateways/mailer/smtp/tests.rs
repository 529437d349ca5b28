//! A relay on real sockets that misbehaves at any step, and what becomes of the mail, and of the one after it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;

const IMPATIENT: Patience =
    Patience { step: Duration::from_millis(300), receipt: Duration::from_millis(300), whole: Duration::from_secs(5) };
/// For a test that fails.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the relay does at one step.
#[derive(Clone, Copy, Debug)]
enum Play {
    /// What a relay says there.
    Usual,
    /// Says this instead.
    Say(&'static str),
    /// Says nothing more.
    Hang,
    /// Closes the connection.
    Drop,
    /// One byte at a time, never to the end of the line.
    Trickle,
    /// Says what is usual, but only when the test tells it to.
    Late,
}

/// Which step of which connection (the first is 0) is played how; every other one is usual. The mail itself is ".".
type Script = BTreeMap<(usize, &'static str), Play>;

#[derive(Default)]
struct Book {
    script: Script,
    connections: Mutex<usize>,
    /// Recipients of mails that were taken.
    taken: Mutex<Vec<String>>,
    reached: Notify,
    go_on: Notify,
}

struct Relay {
    url: String,
    book: Arc<Book>,
    server: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Relay {
    async fn start(script: impl IntoIterator<Item = ((usize, &'static str), Play)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://user:pass@{}", listener.local_addr().unwrap());
        let book = Arc::new(Book { script: script.into_iter().collect(), ..Book::default() });
        let shared = Arc::clone(&book);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut connections = shared.connections.lock().unwrap();
                    *connections += 1;
                    *connections - 1
                };
                tokio::spawn(converse(stream, number, Arc::clone(&shared)));
            }
        });
        Self { url, book, server }
    }

    fn client(&self, patience: Patience) -> SmtpRelay {
        SmtpRelay::with(&self.url, Trust { plain: is_loopback, roots: &[] }, patience).unwrap()
    }

    fn connections(&self) -> usize {
        *self.book.connections.lock().unwrap()
    }

    fn taken(&self) -> Vec<String> {
        self.book.taken.lock().unwrap().clone()
    }
}

struct Line {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

async fn converse(stream: TcpStream, number: usize, book: Arc<Book>) -> Option<()> {
    let (read, write) = stream.into_split();
    let mut line = Line { lines: BufReader::new(read).lines(), write };
    let mut recipient = String::new();
    play(&mut line, &book, number, "CONNECT", "220 relay.example ESMTP").await?;
    while let Some(said) = line.lines.next_line().await.ok()? {
        let verb = said.split(' ').next().unwrap_or_default().to_owned();
        match verb.as_str() {
            "EHLO" => play(&mut line, &book, number, "EHLO", "250-relay.example\r\n250 AUTH PLAIN").await?,
            "AUTH" => play(&mut line, &book, number, "AUTH", "235 2.7.0 welcome").await?,
            "MAIL" => play(&mut line, &book, number, "MAIL", "250 2.1.0 Ok").await?,
            "RCPT" => {
                recipient = said.trim_start_matches("RCPT TO:<").trim_end_matches('>').to_owned();
                play(&mut line, &book, number, "RCPT", "250 2.1.5 Ok").await?;
            }
            "DATA" => {
                play(&mut line, &book, number, "DATA", "354 go on").await?;
                while line.lines.next_line().await.ok()?? != "." {}
                book.taken.lock().unwrap().push(recipient.clone());
                play(&mut line, &book, number, ".", "250 2.0.0 Ok: queued as 4QX7").await?;
            }
            "NOOP" => play(&mut line, &book, number, "NOOP", "250 2.0.0 Ok").await?,
            "QUIT" => play(&mut line, &book, number, "QUIT", "221 2.0.0 Bye").await?,
            _ => play(&mut line, &book, number, "", "500 5.5.2 what?").await?,
        }
    }
    None
}

/// `None`: the connection is over.
async fn play(line: &mut Line, book: &Book, number: usize, step: &'static str, usual: &str) -> Option<()> {
    let words = match book.script.get(&(number, step)).copied().unwrap_or(Play::Usual) {
        Play::Usual => usual,
        Play::Say(words) => words,
        Play::Drop => return None,
        Play::Hang => {
            // Nothing more comes but the end.
            while line.lines.next_line().await.ok()?.is_some() {}
            return None;
        }
        Play::Trickle => loop {
            line.write.write_all(b"2").await.ok()?;
            sleep(Duration::from_millis(10)).await;
        },
        Play::Late => {
            book.reached.notify_one();
            book.go_on.notified().await;
            usual
        }
    };
    line.write.write_all(format!("{words}\r\n").as_bytes()).await.ok()
}

fn mail_to(recipient: &str) -> Message {
    let builder = Message::builder().from("thanks@care.example".parse().unwrap()).to(recipient.parse().unwrap());
    builder.subject("Thank you").body("Your gift arrived.\n".to_owned()).unwrap()
}

async fn sent(relay: &SmtpRelay, recipient: &str) -> Result<Option<String>, (&'static str, String)> {
    let sent = timeout(DEADLINE, relay.send(mail_to(recipient))).await.expect("every step is bounded");
    sent.map(|it| it.provider_id).map_err(|error| (error.label(), error.code().to_owned()))
}

fn told(label: &'static str, code: &str) -> Result<Option<String>, (&'static str, String)> {
    Err((label, code.to_owned()))
}

fn receipt() -> Result<Option<String>, (&'static str, String)> {
    Ok(Some("4QX7".to_owned()))
}

const STEPS: [&str; 7] = ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "."];

#[tokio::test]
async fn a_conversation_that_was_dropped_half_way_is_never_carried_on_by_another_mail() {
    for step in ["MAIL", "RCPT", "DATA", "."] {
        // The second mail goes to somebody the relay refuses: no answer to the first may stand in for that.
        let relay = Relay::start([((0, step), Play::Late), ((1, "RCPT"), Play::Say("550 no such mailbox"))]).await;
        let client = relay.client(Patience::USUAL);
        let first = tokio::spawn({
            let client = client.clone();
            async move { client.send(mail_to("first@example.org")).await }
        });
        timeout(DEADLINE, relay.book.reached.notified()).await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        relay.book.go_on.notify_one();
        assert_eq!(sent(&client, "second@example.org").await, told("permanent", "550"), "{step}");
        assert_eq!(sent(&client, "third@example.org").await, receipt(), "{step}");
        assert_eq!(relay.connections(), 3, "{step}");
        assert!(!relay.taken().contains(&"second@example.org".to_owned()), "{step}");
    }
}

#[tokio::test]
async fn a_mail_after_a_receipt_goes_over_the_same_connection_and_after_a_refusal_over_another() {
    let relay = Relay::start([]).await;
    let client = relay.client(Patience::USUAL);
    for _ in 0..3 {
        assert_eq!(sent(&client, "jo@example.org").await, receipt());
    }
    client.check().await.unwrap();
    assert_eq!((relay.connections(), relay.taken().len()), (1, 3));

    let relay = Relay::start([((0, "RCPT"), Play::Say("450 4.2.1 later"))]).await;
    let client = relay.client(Patience::USUAL);
    assert_eq!(sent(&client, "jo@example.org").await, told("transient", "450"));
    assert_eq!(sent(&client, "jo@example.org").await, receipt());
    assert_eq!((relay.connections(), relay.taken().len()), (2, 1));
}

#[tokio::test]
async fn every_step_is_bounded_and_only_after_the_mail_does_nobody_know() {
    for play in [Play::Hang, Play::Trickle] {
        for step in STEPS {
            let relay = Relay::start([((0, step), play)]).await;
            let client = relay.client(IMPATIENT);
            let label = if step == "." { "unknown" } else { "transient" };
            assert_eq!(sent(&client, "jo@example.org").await, told(label, "timeout"), "{play:?} at {step}");
            assert_eq!(sent(&client, "jo@example.org").await, receipt(), "{play:?} at {step}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_passing_and_after_the_mail_nobody_knows() {
    for step in STEPS {
        let relay = Relay::start([((0, step), Play::Drop)]).await;
        let client = relay.client(Patience::USUAL);
        let label = if step == "." { "unknown" } else { "transient" };
        assert_eq!(sent(&client, "jo@example.org").await, told(label, "connection"), "at {step}");
        assert_eq!(relay.taken().len(), usize::from(step == "."), "at {step}");
        assert_eq!(sent(&client, "jo@example.org").await, receipt(), "at {step}");
    }
}

#[tokio::test]
async fn the_tls_handshake_is_bounded_too() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtps://localhost:{}", silent.local_addr().unwrap().port());
    let client = SmtpRelay::with(&url, Trust { plain: is_loopback, roots: &[] }, IMPATIENT).unwrap();
    assert_eq!(sent(&client, "jo@example.org").await, told("transient", "timeout"));
}

#[tokio::test]
async fn a_refusal_stays_one_when_the_relay_hangs_after_it() {
    let relay = Relay::start([((0, "RCPT"), Play::Say("550 mailbox unavailable")), ((0, "QUIT"), Play::Hang)]).await;
    assert_eq!(sent(&relay.client(IMPATIENT), "jo@example.org").await, told("permanent", "550"));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_its_command_is_no_receipt() {
    for (step, words, told_as) in [
        (".", "354 go on", told("unknown", "relay")),
        ("DATA", "250 2.0.0 Ok", told("transient", "relay")),
        ("RCPT", "354 go on", told("transient", "relay")),
        ("MAIL", "334 what else", told("transient", "relay")),
    ] {
        let relay = Relay::start([((0, step), Play::Say(words))]).await;
        let client = relay.client(Patience::USUAL);
        assert_eq!(sent(&client, "jo@example.org").await, told_as, "{step}");
        assert_eq!(sent(&client, "jo@example.org").await, receipt(), "{step}");
        assert_eq!(relay.connections(), 2, "{step}");
    }
    // One answer too many: from there on each is one behind, until 354 does not come where it must.
    let relay = Relay::start([((0, "AUTH"), Play::Say("235 2.7.0 welcome\r\n250 2.0.0 twice"))]).await;
    assert_eq!(sent(&relay.client(Patience::USUAL), "jo@example.org").await, told("transient", "relay"));
    assert!(relay.taken().is_empty());
}

#[tokio::test]
async fn a_relay_that_left_a_kept_connection_costs_no_attempt() {
    for play in [Play::Drop, Play::Say("421 4.4.2 idle for too long"), Play::Hang] {
        let relay = Relay::start([]).await;
        let client = relay.client(Patience::USUAL);
        assert_eq!(sent(&client, "jo@example.org").await, receipt());
        assert_eq!(relay.connections(), 1);
        let mut kept = client.shared.idle.take().unwrap();
        assert!(kept.is_there(Steps::begin("", IMPATIENT)).await);
        client.shared.idle.keep(kept);

        let limping = Relay::start([((0, "NOOP"), play)]).await;
        let client = limping.client(IMPATIENT);
        assert_eq!(sent(&client, "jo@example.org").await, receipt());
        client.check().await.unwrap();
        assert_eq!(limping.connections(), 2, "{play:?}: the check found it gone and opened another");
    }
}

#[tokio::test]
async fn the_second_mail_of_a_connection_that_the_relay_left_goes_over_a_fresh_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        // Each connection takes one mail and says goodbye to the next.
        let mut mails = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 relay.example\r\n").await.unwrap();
            let mut taken = false;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    break;
                }
                let answer: &[u8] = match line.get(..4) {
                    Some("MAIL") if taken => b"421 4.7.0 one mail each\r\n",
                    Some("DATA") => {
                        stream.write_all(b"354 go on\r\n").await.unwrap();
                        while line != ".\r\n" {
                            line.clear();
                            stream.read_line(&mut line).await.unwrap();
                        }
                        (mails, taken) = (mails + 1, true);
                        b"250 2.0.0 Ok: queued as 4QX7\r\n"
                    }
                    _ => b"250 Ok\r\n",
                };
                stream.write_all(answer).await.unwrap();
                if answer.starts_with(b"421") || mails == 3 {
                    drop(stream.read_u8().await);
                    break;
                }
            }
        }
    });
    let client = SmtpRelay::with(&url, Trust { plain: is_loopback, roots: &[] }, Patience::USUAL).unwrap();
    for _ in 0..3 {
        assert_eq!(sent(&client, "jo@example.org").await, receipt());
    }
    server.abort();
}

#[test]
fn user_and_password_are_percent_encoded() {
    for (text, decoded) in [("a%40b", Some("a@b")), ("p+w%2B%", Some("p+w+%")), ("%zz", Some("%zz")), ("%ff", None)] {
        assert_eq!(percent_decoded(text).as_deref(), decoded, "{text}");
    }
}
