//! Bad input: each kind of it gets one precise problem document, and leaves nothing behind.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, donation_body, text};

const UNKNOWN_ID: &str = "01980000-0000-7000-8000-000000000000";

/// What a case must be answered with: the status, the end of the problem's type, and what is pointed to.
type Expected<'a> = (u16, &'a str, Option<&'a str>);

const MALFORMED: &str = "malformed-request";

/// Sends the request and holds the answer against RFC 9457 and what is expected.
async fn refused(case: &str, request: RequestBuilder, (status, slug, pointer): Expected<'_>) -> Value {
    let answer = request.send().await.unwrap_or_else(|error| panic!("{case}: no answer: {error}"));
    let (got, headers) = (answer.status(), answer.headers().clone());
    let body = answer.text().await.unwrap();
    assert_eq!(got, status, "{case}: {body}");
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok());
    assert_eq!(content_type, Some("application/problem+json"), "{case}: {body}");
    let problem: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{case}: {error}: {body}"));
    assert_eq!(problem["type"], format!("urn:careforall:problem:{slug}"), "{case}: {problem}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{case}: {problem}");
    assert_eq!(problem["status"], status, "{case}: {problem}");
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pointers: Vec<&str> = errors.iter().map(|error| text(&error["pointer"])).collect();
    assert_eq!(pointers, pointer.into_iter().collect::<Vec<_>>(), "{case}: {problem}");
    assert!(errors.iter().all(|error| !text(&error["detail"]).is_empty()), "{case}: {problem}");
    problem
}

/// Rows of everything that a donation or an order could leave behind, once what is on its way has arrived: an event that
/// leaves the outbox leaves rows with its consumers.
async fn rows(app: &TestApp) -> Vec<i64> {
    wait_until("the outbox is empty", DEADLINE, async || {
        app.count("select count(*) from donations.outbox_events").await == 0
    })
    .await;
    let mut rows = Vec::new();
    for table in [
        "donations.campaigns",
        "donations.donations",
        "donations.outbox_events",
        "donations.audit_logs",
        "payments.payment_transactions",
        "payments.payment_state_history",
        "payments.idempotency_keys",
        "payments.parked_events",
        "notifications.notifications",
    ] {
        rows.push(app.count(&format!("select count(*) from {table}")).await);
    }
    rows
}

/// A good donation with one field changed; `at` is a JSON Pointer.
fn changed(good: &Value, at: &str, value: Value) -> Value {
    let mut body = good.clone();
    let (parent, field) = at.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[field] = value;
    body
}

fn without(good: &Value, at: &str) -> Value {
    let mut body = good.clone();
    let (parent, field) = at.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
    body
}

fn donation(app: &TestApp, body: &Value) -> RequestBuilder {
    app.request(Method::POST, "/api/v1/donations").header("Idempotency-Key", "bad").json(body)
}

fn raw(app: &TestApp, body: impl Into<reqwest::Body>) -> RequestBuilder {
    app.request(Method::POST, "/api/v1/donations")
        .header("Idempotency-Key", "bad")
        .header("Content-Type", "application/json")
        .body(body)
}

/// Holds each changed donation against what is expected of it, and the tables against what they were.
async fn each_is_refused(app: &TestApp, good: &Value, cases: &[(&str, Value, Expected<'_>)]) {
    let before = rows(app).await;
    for (at, value, expected) in cases {
        refused(&format!("{at} = {value}"), donation(app, &changed(good, at, value.clone())), *expected).await;
    }
    assert_eq!(rows(app).await, before, "nothing is stored");
}

#[tokio::test]
async fn a_donation_to_a_campaign_that_is_unknown_or_has_another_currency_is_refused() {
    let app = Setup::new().await.start().await;
    let good = donation_body(&app.campaign().await, 2500);
    let cases = [
        ("/campaign_id", json!(UNKNOWN_ID), (422, "validation", Some("/campaign_id"))),
        ("/campaign_id", json!("nonsense"), (400, MALFORMED, Some("/campaign_id"))),
        ("/campaign_id", json!(17), (400, MALFORMED, Some("/campaign_id"))),
        ("/campaign_id", Value::Null, (400, MALFORMED, Some("/campaign_id"))),
        ("/currency", json!("USD"), (422, "validation", Some("/currency"))),
        ("/currency", json!("XXX"), (422, "validation", Some("/currency"))),
        ("/currency", json!(""), (422, "validation", Some("/currency"))),
        ("/currency", json!("EUR\0"), (422, "validation", Some("/currency"))),
        ("/currency", json!(978), (400, MALFORMED, Some("/currency"))),
    ];
    each_is_refused(&app, &good, &cases).await;
    app.finish().await;
}

#[tokio::test]
async fn a_campaign_that_does_not_take_donations_refuses_them_and_says_why() {
    let app = Setup::new().await.start().await;
    let mut closed = Vec::new();
    for (status, why) in [("PAUSED", "paused"), ("COMPLETED", "completed"), ("CANCELLED", "cancelled")] {
        let campaign = app.campaign().await;
        let path = format!("/api/v1/campaigns/{}", text(&campaign["id"]));
        let patch = app.operator(Method::PATCH, &path).json(&json!({"status": status})).send().await.unwrap();
        assert_eq!(patch.status(), 200, "{status}");
        closed.push((campaign, why));
    }
    closed.push((app.campaign_with(json!({"starts_at": "2100-01-01T00:00:00Z"})).await, "not started"));
    closed.push((app.campaign_with(json!({"ends_at": "2020-01-01T00:00:00Z"})).await, "has ended"));
    let before = rows(&app).await;
    for (campaign, why) in closed {
        let request = donation(&app, &donation_body(&campaign, 2500));
        let problem = refused(why, request, (409, "campaign-not-open", None)).await;
        assert!(text(&problem["detail"]).contains(why), "{why}: {problem}");
    }
    assert_eq!(rows(&app).await, before, "nothing is stored");
    app.finish().await;
}

#[tokio::test]
async fn an_amount_that_cannot_be_charged_is_refused() {
    let app = Setup::new().await.start().await;
    let good = donation_body(&app.campaign().await, 2500);
    let (invalid, malformed) = ((422, "validation", Some("/amount_minor")), (400, MALFORMED, Some("/amount_minor")));
    let mut cases = Vec::new();
    for amount in [0, -1, 1, 49, 100_000_000, i64::MIN, i64::MAX] {
        cases.push(("/amount_minor", json!(amount), invalid));
    }
    for amount in [json!(10.5), json!(2500.0), json!("2500"), json!(u64::MAX), json!(true), json!([2500]), Value::Null]
    {
        cases.push(("/amount_minor", amount, malformed));
    }
    each_is_refused(&app, &good, &cases).await;
    for literal in ["9223372036854775808", "99999999999999999999999999", "1e3", "1e400", "2500.00"] {
        let body = good.to_string().replace("\"amount_minor\":2500", &format!("\"amount_minor\":{literal}"));
        assert!(body.contains(literal));
        // A number beyond every type is bad JSON: there may be no field to point to.
        let answer = raw(&app, body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{literal}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["pointer"], "/amount_minor", "{literal}: {problem}");
    }
    assert_eq!(rows(&app).await[1], 0);
    app.finish().await;
}

#[tokio::test]
async fn each_currency_has_its_own_minimum_and_its_own_last_digit() {
    let app = Setup::new().await.start().await;
    let invalid = (422, "validation", Some("/amount_minor"));
    for (currency, too_small, smallest) in [("EUR", 49, 50), ("JPY", 49, 50), ("HUF", 17_499, 17_500)] {
        let campaign = app.campaign_with(json!({"currency": currency})).await;
        let good = donation_body(&campaign, smallest);
        each_is_refused(&app, &good, &[("/amount_minor", json!(too_small), invalid)]).await;
        app.donate(&campaign, smallest).await;
    }
    let campaign = app.campaign_with(json!({"currency": "KWD"})).await;
    let good = donation_body(&campaign, 5000);
    each_is_refused(&app, &good, &[("/amount_minor", json!(5001), invalid)]).await;
    app.donate(&campaign, 5000).await;
    app.finish().await;
}

#[tokio::test]
async fn a_field_that_is_unknown_missing_or_said_twice_is_pointed_to() {
    let app = Setup::new().await.start().await;
    let good = donation_body(&app.campaign().await, 2500);
    let cases = [
        ("/colour", json!("red"), (400, MALFORMED, Some("/colour"))),
        ("/donor/colour", json!({"a": [1]}), (400, MALFORMED, Some("/donor/colour"))),
        ("/access_token", json!("mine"), (400, MALFORMED, Some("/access_token"))),
        ("/anonymous", json!("yes"), (400, MALFORMED, Some("/anonymous"))),
        ("/donor", json!("Jo"), (400, MALFORMED, Some("/donor"))),
        ("/donor", json!(["Jo", "jo@example.org", null]), (400, MALFORMED, Some("/donor"))),
    ];
    each_is_refused(&app, &good, &cases).await;
    for field in ["/campaign_id", "/amount_minor", "/currency", "/donor", "/donor/name", "/donor/email"] {
        let expected = (400, MALFORMED, Some(field));
        refused(&format!("without {field}"), donation(&app, &without(&good, field)), expected).await;
    }
    for (field, twice) in [("/currency", r#""currency":"EUR","#), ("/amount_minor", r#""amount_minor":1,"#)] {
        let body = good.to_string().replacen('{', &format!("{{{twice}"), 1);
        refused(&format!("{field} twice"), raw(&app, body), (400, MALFORMED, Some(field))).await;
    }
    let twice = good.to_string().replace(r#""donor":{"#, r#""donor":{"email":"other@example.org","#);
    refused("/donor/email twice", raw(&app, twice), (400, MALFORMED, Some("/donor/email"))).await;
    assert_eq!(rows(&app).await[1..], [0; 8], "nothing is stored");
    app.finish().await;
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let good = donation_body(&campaign, 2500).to_string();
    let positional = json!([campaign["id"], 2500, "EUR", {"name": "Jo", "email": "jo@example.org"}, false, null]);
    let nested = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let in_a_field = good.replace(r#""donor":"#, &format!(r#""message":{nested},"donor":"#));
    let before = rows(&app).await;
    let whole = Some("");
    for (case, body, pointer) in [
        ("rubbish", b"rubbish".to_vec(), whole),
        ("half", good.as_bytes()[..good.len() / 2].to_vec(), None),
        ("trailing garbage", format!("{good} x").into_bytes(), whole),
        ("two objects", format!("{good}{good}").into_bytes(), whole),
        ("null", b"null".to_vec(), whole),
        ("a string", b"\"donation\"".to_vec(), whole),
        ("fields by position", positional.to_string().into_bytes(), whole),
        ("deep nesting", nested.into_bytes(), whole),
        ("deep nesting in a field", in_a_field.into_bytes(), Some("/message")),
        (
            "not UTF-8",
            good.replace("Jo Donor", "J\u{1}").bytes().map(|b| if b == 1 { 0xff } else { b }).collect(),
            None,
        ),
        ("half a surrogate", good.replace("Jo Donor", r"\ud800").into_bytes(), Some("/donor/name")),
        ("an empty object", b"{}".to_vec(), Some("/campaign_id")),
        ("nothing", Vec::new(), Some("/campaign_id")),
    ] {
        match pointer {
            Some(_) => drop(refused(case, raw(&app, body), (400, MALFORMED, pointer)).await),
            // Where the bytes end or are no text, how far reading came is no promise of ours.
            None => {
                let answer = raw(&app, body).send().await.unwrap();
                assert_eq!(answer.status(), 400, "{case}");
                assert_eq!(answer.headers()["content-type"], "application/problem+json", "{case}");
            }
        }
    }
    assert_eq!(rows(&app).await, before, "nothing is stored");
    app.finish().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_or_of_another_type_is_refused() {
    let app = Setup::new().await.start().await;
    let good = donation_body(&app.campaign().await, 2500);
    let before = rows(&app).await;
    let large = good.to_string() + &" ".repeat(64 * 1024);
    refused("known length", raw(&app, large.clone()), (413, "body-too-large", None)).await;
    let head = "POST /api/v1/donations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let answer = app.speak(&format!("{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("problem:body-too-large"), "in pieces: {answer}");
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data", ""]
    {
        let request = app.request(Method::POST, "/api/v1/donations").header("Content-Type", content_type);
        let request = request.body(good.to_string());
        refused(content_type, request, (415, "unsupported-media-type", None)).await;
    }
    let request = app.request(Method::POST, "/api/v1/donations").body(good.to_string());
    refused("no type", request, (415, "unsupported-media-type", None)).await;
    assert_eq!(rows(&app).await, before, "nothing is stored");
    app.finish().await;
}

#[tokio::test]
async fn a_donor_whom_no_mail_could_reach_is_refused() {
    let app = Setup::new().await.start().await;
    let good = donation_body(&app.campaign().await, 2500);
    let long_local = format!("{}@example.org", "a".repeat(65));
    let long = format!("jo@{}.org", "a.".repeat(130));
    let invalid = (422, "validation", Some("/donor/email"));
    let cases: Vec<_> = [
        "",
        "jo",
        "@example.org",
        "jo@",
        "jo@localhost",
        "jo@@example.org",
        "jo@example..org",
        "jo@.example.org",
        "jo@-a.org",
        "jo d@example.org",
        "jo@exam ple.org",
        ".jo@example.org",
        "jö@example.org",
        "jo@example.org\r\nBcc: all@example.org",
        "jo@example.org,all@example.org",
        "Jo <jo@example.org>",
        "jo\0@example.org",
        &long_local,
        &long,
    ]
    .into_iter()
    .map(|email| ("/donor/email", json!(email), invalid))
    .collect();
    each_is_refused(&app, &good, &cases).await;
    let phone = (422, "validation", Some("/donor/phone"));
    each_is_refused(&app, &good, &[("/donor/phone", json!("0151 1234"), phone)]).await;
    app.finish().await;
}

#[tokio::test]
async fn control_characters_and_endless_texts_are_refused_wherever_text_is_kept() {
    let app = Setup::new().await.start().await;
    let good = donation_body(&app.campaign().await, 2500);
    let (name, message) = ((422, "validation", Some("/donor/name")), (422, "validation", Some("/message")));
    let cases = [
        ("/donor/name", json!(""), name),
        ("/donor/name", json!(" \t "), name),
        ("/donor/name", json!("J\0o"), name),
        ("/donor/name", json!("J\u{7}o"), name),
        ("/donor/name", json!("Jo\nBcc: all@example.org"), name),
        ("/donor/name", json!("J\u{85}o"), name),
        ("/donor/name", json!("a".repeat(201)), name),
        ("/message", json!("Go\0od"), message),
        ("/message", json!("Go\u{1b}[31mod"), message),
        ("/message", json!("a".repeat(1001)), message),
    ];
    each_is_refused(&app, &good, &cases).await;
    let campaign = json!({"slug": "wells", "title": "Wells", "currency": "EUR"});
    let before = rows(&app).await;
    for (at, value) in [
        ("/slug", json!("we\0lls")),
        ("/slug", json!("Wells")),
        ("/slug", json!("we--lls")),
        ("/slug", json!("-wells")),
        ("/slug", json!("we/lls")),
        ("/slug", json!("")),
        ("/slug", json!("a".repeat(81))),
        ("/slug", json!(UNKNOWN_ID)),
        ("/title", json!("We\0lls")),
        ("/title", json!("")),
        ("/description", json!("We\0lls")),
        ("/currency", json!("XXX")),
        ("/goal_minor", json!(0)),
        ("/goal_minor", json!(i64::MAX)),
    ] {
        let request = app.operator(Method::POST, "/api/v1/campaigns").json(&changed(&campaign, at, value.clone()));
        refused(&format!("{at} = {value}"), request, (422, "validation", Some(at))).await;
    }
    assert_eq!(rows(&app).await, before, "nothing is stored");
    app.finish().await;
}

#[tokio::test]
async fn every_thing_that_is_wrong_is_told_at_once() {
    let app = Setup::new().await.start().await;
    let mut body = donation_body(&app.campaign().await, 1);
    body["donor"] = json!({"name": "", "email": "jo", "phone": "1"});
    body["message"] = json!("\0");
    let problem: Value = donation(&app, &body).send().await.unwrap().json().await.unwrap();
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| text(&error["pointer"])).collect();
    assert_eq!(pointers, ["/amount_minor", "/donor/name", "/donor/email", "/donor/phone", "/message"]);
    app.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_that_is_none_is_refused() {
    let app = Setup::new().await.start().await;
    let body = donation_body(&app.campaign().await, 2500);
    let before = rows(&app).await;
    let pointer = Some("/headers/Idempotency-Key");
    for key in [&b""[..], b"  ", b"\"\"", b"two words", b"\xc3\xa4", b"tab\there", &[b'k'; 256]] {
        let request = app.request(Method::POST, "/api/v1/donations").json(&body);
        let request = request.header("Idempotency-Key", reqwest::header::HeaderValue::from_bytes(key).unwrap());
        refused(&String::from_utf8_lossy(key), request, (400, MALFORMED, pointer)).await;
    }
    assert_eq!(rows(&app).await, before, "nothing is stored");
    let longest = app.request(Method::POST, "/api/v1/donations").header("Idempotency-Key", "k".repeat(255));
    assert_eq!(longest.json(&body).send().await.unwrap().status(), 201);
    app.finish().await;
}

#[tokio::test]
async fn an_identifier_in_a_path_that_is_none_or_unknown_is_refused() {
    let app = Setup::new().await.start().await;
    let before = rows(&app).await;
    for (method, path) in [
        (Method::GET, "/api/v1/donations/ID"),
        (Method::GET, "/api/v1/payments/ID"),
        (Method::GET, "/api/v1/payments/ID/timeline"),
        (Method::POST, "/api/v1/payments/ID/capture"),
        (Method::POST, "/api/v1/payments/ID/cancel"),
        (Method::POST, "/api/v1/payments/ID/refunds"),
    ] {
        let send = |id: &str| {
            let request = app.operator(method.clone(), &path.replace("ID", id));
            if method == Method::POST { request.json(&json!({})) } else { request }
        };
        for id in ["nonsense", "0198", "%00", "..%2f", "1%27%20or%20%271"] {
            refused(&format!("{path} {id}"), send(id), (400, "malformed-identifier", None)).await;
        }
        refused(path, send(UNKNOWN_ID), (404, "not-found", None)).await;
    }
    for path in ["/api/v1/campaigns/ID", "/api/v1/campaigns/ID/totals"] {
        for id in ["nonsense", "%00", UNKNOWN_ID, "%ff"] {
            refused(id, app.request(Method::GET, &path.replace("ID", id)), (404, "not-found", None)).await;
        }
    }
    assert_eq!(rows(&app).await, before, "nothing is stored");
    app.finish().await;
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    let app = Setup::new().await.start().await;
    for (path, expected) in [
        ("/api/v1/campaigns?limit=0", (422, "validation", Some("/limit"))),
        ("/api/v1/campaigns?limit=101", (422, "validation", Some("/limit"))),
        ("/api/v1/campaigns?colour=red", (400, MALFORMED, Some("/colour"))),
        ("/api/v1/payments?colour=red", (400, MALFORMED, Some("/colour"))),
    ] {
        refused(path, app.operator(Method::GET, path), expected).await;
    }
    for path in ["/api/v1/campaigns?limit=ten", "/api/v1/campaigns?cursor=x", "/api/v1/payments?status=LOST"] {
        let answer = app.operator(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_order_for_an_impossible_amount_is_refused_before_the_provider_is_troubled() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign_with(json!({"manual_capture": true})).await;
    let donation = app.donate(&campaign, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
    crate::support::services::wait_until("the money is reserved", crate::support::DEADLINE, async || {
        app.payment(&donation).await["status"] == "AUTHORIZED"
    })
    .await;
    let (invalid, malformed) = ((422, "validation", Some("/amount_minor")), (400, MALFORMED, Some("/amount_minor")));
    for order in ["capture", "refunds"] {
        if order == "refunds" {
            assert_eq!(app.post(&format!("{payment}/capture"), json!({})).await.0, 200);
        }
        for (amount, expected) in [
            (json!(0), invalid),
            (json!(-1), invalid),
            (json!(2501), invalid),
            (json!(i64::MAX), invalid),
            (json!(10.5), malformed),
            (json!("1"), malformed),
        ] {
            let request =
                app.operator(Method::POST, &format!("{payment}/{order}")).json(&json!({"amount_minor": amount}));
            refused(&format!("{order} {amount}"), request, expected).await;
        }
        let request = app.operator(Method::POST, &format!("{payment}/{order}")).json(&json!({"colour": 1}));
        refused(order, request, (400, MALFORMED, Some("/colour"))).await;
    }
    let books = app.request(Method::GET, "/sandbox/control/books").send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!((&books["EUR"]["captured_minor"], &books["EUR"]["refunded_minor"]), (&json!(2500), &json!(0)));
    app.finish().await;
}

#[tokio::test]
async fn a_route_that_is_not_there_and_a_method_that_it_does_not_have_get_problem_documents() {
    let app = Setup::new().await.start().await;
    for path in ["/", "/nope", "/api", "/api/v1", "/api/v1/nope", "/api/v2/campaigns", "/webhooks", "/webhooks/paypal"]
    {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            refused(&format!("{method} {path}"), app.operator(method, path), (404, "not-found", None)).await;
        }
    }
    for (path, methods) in [
        ("/api/v1/campaigns", "GET, POST"),
        ("/api/v1/campaigns/wells", "GET, PATCH"),
        ("/api/v1/campaigns/wells/totals", "GET"),
        ("/api/v1/donations", "POST"),
        ("/api/v1/donations/x", "GET"),
        ("/api/v1/payments", "GET"),
        ("/api/v1/payments/x", "GET"),
        ("/api/v1/payments/x/timeline", "GET"),
        ("/api/v1/payments/x/capture", "POST"),
        ("/api/v1/payments/x/cancel", "POST"),
        ("/api/v1/payments/x/refunds", "POST"),
        ("/webhooks/stripe", "POST"),
        ("/health/live", "GET"),
        ("/health/ready", "GET"),
        ("/metrics", "GET"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            if methods.contains(method) {
                continue;
            }
            let case = format!("{method} {path}");
            let send = || app.operator(method.parse().unwrap(), path);
            refused(&case, send(), (405, "method-not-allowed", None)).await;
            let answer = send().send().await.unwrap();
            assert_eq!(answer.headers()["allow"], methods, "{case}: RFC 9110 wants the methods that there are");
        }
    }
    app.finish().await;
}
