//! What people get by mail: text and HTML alike, a receipt that names its number, a way to want no more thanks, and the
//! list of one's own donations by a link.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, donation_body, read, text};

const PUBLIC_URL: &str = "https://give.example";

/// A mail as its reader sees it.
struct Mail {
    /// Unfolded.
    head: String,
    text: String,
    html: String,
}

impl Mail {
    fn parse(raw: &str) -> Self {
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        assert!(head.contains("Content-Type: multipart/alternative;"), "{head}");
        let boundary = head.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
        let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4, "a text, an HTML, and the end: {raw}");
        assert!(parts[1].contains("text/plain; charset=utf-8"), "{raw}");
        assert!(parts[2].contains("text/html; charset=utf-8"), "{raw}");
        Self { text: decoded(parts[1]), html: decoded(parts[2]), head }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The path and query of the only link in its text.
    fn link(&self) -> &str {
        let mut links = self.text.split_whitespace().filter_map(|word| word.strip_prefix(PUBLIC_URL));
        let link = links.next().unwrap_or_else(|| panic!("no link: {}", self.text));
        assert!(links.next().is_none(), "{}", self.text);
        link
    }
}

fn decoded(part: &str) -> String {
    let (head, body) = part.split_once("\r\n\r\n").unwrap();
    let bytes = if head.contains("base64") {
        STANDARD.decode(body.replace("\r\n", "")).unwrap()
    } else if head.contains("quoted-printable") {
        unquoted(&body.replace("=\r\n", ""))
    } else {
        body.as_bytes().to_vec()
    };
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

fn unquoted(text: &str) -> Vec<u8> {
    let mut parts = text.split('=');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

async fn started() -> TestApp {
    Setup::new().await.with("CAREFORALL_PUBLIC_URL", PUBLIC_URL).start().await
}

async fn mails(app: &TestApp, subject: &str, count: usize) -> Vec<Mail> {
    let all = || app.mails().iter().map(|raw| Mail::parse(raw)).collect::<Vec<_>>();
    let of = |mail: &Mail| mail.header("Subject").is_some_and(|it| it.starts_with(subject));
    wait_until(&format!("{count} mails {subject:?}"), DEADLINE, async || {
        all().iter().filter(|it| of(it)).count() == count
    })
    .await;
    all().into_iter().filter(of).collect()
}

/// A paid donation of that donor.
async fn give(app: &TestApp, campaign: &Value, email: &str, amount_minor: i64) -> Value {
    let mut body = donation_body(campaign, amount_minor);
    body["donor"]["email"] = json!(email);
    let (status, donation) = read(app.request(Method::POST, "/api/v1/donations").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await
}

async fn nothing_is_logged(app: TestApp) {
    wait_until("nothing waits any more", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status = 'PENDING'").await == 0
    })
    .await;
    for word in ["example.org", "Jo Donor", "token="] {
        assert!(!app.log().contains(word), "{word} is in the log:\n{}", app.log());
    }
    app.finish().await;
}

#[tokio::test]
async fn a_donor_gets_thanks_and_a_receipt_in_text_and_html_and_a_duplicate_says_that_it_is_one() {
    let app = started().await;
    let campaign = app.campaign_with(json!({"title": "Wells <b>& “more”</b>", "currency": "KWD"})).await;
    let donation = give(&app, &campaign, "jo@example.org", 12_340).await;
    let label = text(&donation["receipt_number"]);
    let thanks = mails(&app, "We received", 1).await.remove(0);
    let token = thanks.link().strip_prefix("/unsubscribe/").unwrap();
    assert!(
        thanks.head.contains(&format!("\nList-Unsubscribe: <{PUBLIC_URL}/unsubscribe/{token}>")),
        "{}",
        thanks.head
    );
    assert_eq!(thanks.header("List-Unsubscribe-Post"), Some("List-Unsubscribe=One-Click"));
    let receipt = mails(&app, &format!("Receipt {label}: "), 1).await.remove(0);
    assert!(!receipt.head.contains("List-Unsubscribe"), "{}", receipt.head);
    for part in [&receipt.text, &receipt.html] {
        for fact in [label, "12.340 KWD", text(&donation["id"]), "Dear Jo Donor,", "CareForAll", " UTC"] {
            assert!(part.contains(fact), "{fact} is missing: {part}");
        }
        assert!(!part.contains("Duplicate"), "{part}");
    }
    assert!(receipt.html.contains("Wells &#60;b&#62;&#38; “more”&#60;/b&#62;"), "{}", receipt.html);
    // As an operator sends it once more, two days later.
    app.sql(
        "insert into notifications.notifications (id, event_id, kind, channel, recipient, donation_id, payment_id,
                                                  amount_minor, currency, duplicate_of, status, next_attempt_at, created_at)
         select gen_random_uuid(), gen_random_uuid(), kind, channel, recipient, donation_id, payment_id, amount_minor,
                currency, id, 'PENDING', now(), now() + interval '2 days'
           from notifications.notifications where kind = 'PAYMENT_CONFIRMED'",
    )
    .await;
    let words = format!("Duplicate of receipt {label}");
    let duplicate = mails(&app, &words, 1).await.remove(0);
    assert_eq!(duplicate.text, format!("{words}\n\n{}", receipt.text), "it tells the same, the date too");
    assert!(duplicate.html.contains(&format!(">{words}</p>")), "{}", duplicate.html);
    nothing_is_logged(app).await;
}

#[tokio::test]
async fn whoever_unsubscribes_gets_receipts_and_no_thanks_and_looking_is_not_unsubscribing() {
    let app = started().await;
    let campaign = app.campaign().await;
    give(&app, &campaign, "jo@example.org", 2500).await;
    let link = mails(&app, "We received", 1).await.remove(0).link().to_owned();
    let ask = async |method: Method, path: &str| {
        let answer = app.request(method, path).send().await.unwrap();
        let headers = answer.headers().clone();
        (answer.status(), headers, answer.text().await.unwrap())
    };
    let suppressed =
        async || app.count("select count(*) from notifications.suppressions where reason = 'UNSUBSCRIBE'").await;

    let (status, headers, page) = ask(Method::GET, &link).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(page.contains("<form method=\"post\">") && !page.contains("example.org"), "{page}");
    assert_eq!(suppressed().await, 0, "scanners look at every link");
    let cut = &link[..link.len() - 1];
    for (method, path) in [(Method::GET, cut), (Method::POST, cut), (Method::POST, "/unsubscribe/x")] {
        assert_eq!(ask(method, path).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(suppressed().await, 0);

    // As RFC 8058 has it, section 3.2; and once more, as programs do.
    for _ in 0..2 {
        let request = app.request(Method::POST, &link).form(&[("List-Unsubscribe", "One-Click")]);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(suppressed().await, 1);
    give(&app, &campaign, "Jo@Example.org", 2600).await;
    mails(&app, "Receipt ", 2).await;
    wait_until("the second thank-you is silenced", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status = 'SUPPRESSED'").await == 1
    })
    .await;
    mails(&app, "We received", 1).await;
    nothing_is_logged(app).await;
}

#[tokio::test]
async fn unsubscribing_is_limited_like_anything_that_anybody_can_ask_for() {
    let app = Setup::new().await.with("CAREFORALL_RATE_LIMIT", "2/hour").start().await;
    for expected in [404, 404, 429] {
        let answer = app.request(Method::POST, "/unsubscribe/x").send().await.unwrap();
        assert_eq!(answer.status(), expected);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_donor_sees_the_own_donations_by_a_mailed_link_and_nobody_elses() {
    let app = started().await;
    let campaign = app.campaign().await;
    let mut own = Vec::new();
    for (email, amount) in [("jo@example.org", 1000), ("JO@example.org", 2000), ("zoe@example.org", 3000)] {
        own.push(give(&app, &campaign, email, amount).await);
    }
    let thanks = mails(&app, "We received", 3).await;
    let ask = async |email: &str| {
        let (status, body) =
            read(app.request(Method::POST, "/api/v1/donors/me/link").json(&json!({"email": email}))).await;
        (status.as_u16(), body)
    };
    assert_eq!(ask("no address").await.0, 422);
    // Known or not, the answer is the same; a known address gets three mails an hour.
    assert_eq!(ask("nobody@example.org").await, (202, Value::Null));
    for _ in 0..5 {
        assert_eq!(ask("Jo@example.org").await, (202, Value::Null));
    }
    let links = mails(&app, "Your donations", 3).await;
    assert_eq!(app.count("select count(*) from notifications.notifications where kind = 'DONOR_HISTORY'").await, 3);
    assert!(links.iter().all(|mail| mail.header("To").unwrap().eq_ignore_ascii_case("jo@example.org")));
    assert_ne!(links[0].link(), links[1].link());

    let (status, page) = read(app.request(Method::GET, &format!("{}&limit=1", links[0].link()))).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let newest = &page["items"][0];
    assert_eq!((&newest["id"], &newest["amount_minor"]), (&own[1]["id"], &json!(2000)), "{page}");
    let expected = json!({"id": campaign["id"], "slug": campaign["slug"], "title": campaign["title"]});
    assert_eq!(newest["campaign"], expected);
    assert_eq!((&newest["status"], &newest["currency"]), (&json!("COMPLETED"), &json!("EUR")));
    assert_eq!(newest["receipt_number"], own[1]["receipt_number"]);
    assert!(!page.to_string().contains("example.org"), "{page}");
    // The rest, by the header.
    let token = links[0].link().rsplit_once('=').unwrap().1;
    let list = async |token: &str, query: &str| {
        read(app.request(Method::GET, &format!("/api/v1/donors/me/donations{query}")).bearer_auth(token)).await
    };
    let (_, rest) = list(token, &format!("?cursor={}", text(&page["next_cursor"]))).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null), "{rest}");
    assert_eq!(rest["items"][0]["id"], own[0]["id"]);

    let unsubscribe = thanks[0].link().rsplit_once('/').unwrap().1;
    let fresh = app.donate(&campaign, 500).await;
    let mut spoilt = token.to_owned();
    spoilt.replace_range(..1, "B");
    for foreign in [unsubscribe, text(&fresh["access_token"]), &spoilt, "x", crate::support::ADMIN_KEY] {
        assert_eq!(list(foreign, "").await.0, StatusCode::UNAUTHORIZED, "{foreign}");
    }
    assert_eq!(read(app.request(Method::GET, "/api/v1/donors/me/donations")).await.0, StatusCode::UNAUTHORIZED);
    let path = format!("/api/v1/donations/{}", text(&own[0]["id"]));
    assert_eq!(read(app.request(Method::GET, &path).bearer_auth(token)).await.0, StatusCode::UNAUTHORIZED);
    app.sql(
        "update notifications.notifications set created_at = created_at - interval '61 minutes'
          where kind = 'DONOR_HISTORY'",
    )
    .await;
    assert_eq!(list(token, "").await.0, StatusCode::UNAUTHORIZED, "an hour is over");
    assert_eq!(ask("jo@example.org").await.0, 202);
    mails(&app, "Your donations", 4).await;
    nothing_is_logged(app).await;
}

#[tokio::test]
async fn twenty_requests_for_a_link_at_once_bring_three() {
    let app = started().await;
    let campaign = app.campaign().await;
    give(&app, &campaign, "jo@example.org", 1000).await;
    mails(&app, "We received", 1).await;
    let ask = async || {
        let body = json!({"email": "jo@example.org"});
        app.request(Method::POST, "/api/v1/donors/me/link").json(&body).send().await.unwrap().status()
    };
    let answers = futures::future::join_all((0..20).map(|_| ask())).await;
    assert!(answers.iter().all(|status| *status == StatusCode::ACCEPTED), "{answers:?}");
    assert_eq!(app.count("select count(*) from notifications.notifications where kind = 'DONOR_HISTORY'").await, 3);
    nothing_is_logged(app).await;
}
