//! Who may do what, how often, and what nobody gets to see; and the subcommands that operators run.

use std::sync::Arc;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::services::{create_database, wait_until};
use crate::support::{ADMIN_KEY, DEADLINE, SANDBOX_KEY, Setup, TestApp, WEBHOOK_SECRET, read, text};

const SCOPES: [&str; 4] = ["campaigns:write", "donations:read", "payments:read", "payments:write"];

/// Status, headers, body; an error must be a problem document.
async fn answer(request: RequestBuilder) -> (StatusCode, reqwest::header::HeaderMap, Value) {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body: Value = answer.json().await.unwrap_or(Value::Null);
    if status.is_client_error() {
        assert_eq!(headers["content-type"], "application/problem+json", "{body}");
        assert_eq!(body["status"], status.as_u16(), "{body}");
    }
    (status, headers, body)
}

/// A key that may do just this.
async fn key_for(app: &TestApp, scopes: &[&str]) -> String {
    let mut arguments = vec!["api-keys", "create", "Treasurer"];
    scopes.iter().for_each(|scope| arguments.extend(["--scope", scope]));
    let (code, key, errors) = app.setup.run(&arguments).await;
    assert_eq!(code, 0, "{errors}");
    key.trim().to_owned()
}

// Operators --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_operators_route_wants_a_key_that_is_known_and_has_the_scope() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    let mut keys = std::collections::BTreeMap::new();
    for scope in SCOPES {
        let others: Vec<&str> = SCOPES.into_iter().filter(|other| *other != scope).collect();
        keys.insert(scope, (key_for(&app, &[scope]).await, key_for(&app, &others).await));
    }
    let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
    let routes = [
        (Method::POST, "/api/v1/campaigns".to_owned(), json!({"slug": "x", "title": "", "currency": "EUR"}), SCOPES[0]),
        (Method::PATCH, format!("/api/v1/campaigns/{}", text(&campaign["id"])), json!({"title": ""}), SCOPES[0]),
        (Method::GET, "/api/v1/payments".to_owned(), Value::Null, SCOPES[2]),
        (Method::GET, payment.clone(), Value::Null, SCOPES[2]),
        (Method::GET, format!("{payment}/timeline"), Value::Null, SCOPES[2]),
        (Method::POST, format!("{payment}/capture"), json!({}), SCOPES[3]),
        (Method::POST, format!("{payment}/refunds"), json!({}), SCOPES[3]),
        (Method::POST, format!("{payment}/cancel"), json!({}), SCOPES[3]),
    ];
    let token = text(&donation["access_token"]);
    for (method, path, body, scope) in routes {
        let case = format!("{method} {path}");
        let send = async |authorization: Option<String>| {
            let request = app.request(method.clone(), &path);
            let request = if body.is_null() { request } else { request.json(&body) };
            answer(match authorization {
                Some(authorization) => request.header("Authorization", authorization),
                None => request,
            })
            .await
        };
        let (own, others) = &keys[scope];
        for (what, authorization) in [
            ("no key", None),
            ("an empty key", Some("Bearer ".to_owned())),
            ("an unknown key", Some(format!("Bearer {ADMIN_KEY}x"))),
            ("a part of a key", Some(format!("Bearer {}", &own[..own.len() - 1]))),
            ("another scheme", Some(format!("Basic {own}"))),
            ("a donor's token", Some(format!("Bearer {token}"))),
        ] {
            let (status, headers, problem) = send(authorization).await;
            assert_eq!(
                (status, text(&problem["type"])),
                (StatusCode::UNAUTHORIZED, "urn:careforall:problem:unauthorized"),
                "{case} with {what}"
            );
            assert_eq!(headers["www-authenticate"], "Bearer", "{case} with {what}");
        }
        let (status, _, problem) = send(Some(format!("Bearer {others}"))).await;
        assert_eq!(
            (status, text(&problem["type"])),
            (StatusCode::FORBIDDEN, "urn:careforall:problem:forbidden"),
            "{case}"
        );
        assert!(text(&problem["detail"]).contains(scope), "{case}: {problem}");
        let (status, _, body) = send(Some(format!("bearer {own}"))).await;
        assert!(![401, 403].contains(&status.as_u16()), "{case}: {body}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_any_more() {
    let app = Setup::new().await.start().await;
    let key = key_for(&app, &[]).await;
    let (code, list, _) = app.setup.run(&["api-keys", "list"]).await;
    let row = list.lines().find(|line| line.contains("Treasurer")).unwrap().to_owned();
    assert!(code == 0 && row.contains("active") && SCOPES.iter().all(|scope| row.contains(scope)), "{list}");
    assert!(!list.contains(&key) && !list.contains(ADMIN_KEY), "{list}");
    let open = async || app.request(Method::GET, "/api/v1/payments").bearer_auth(&key).send().await.unwrap().status();
    assert_eq!(open().await, StatusCode::OK);
    let id = row.split_whitespace().next().unwrap();
    let (code, said, _) = app.setup.run(&["api-keys", "revoke", id]).await;
    assert_eq!((code, said.starts_with("revoked")), (0, true), "{said}");
    wait_until("the key opens nothing", DEADLINE, async || open().await == StatusCode::UNAUTHORIZED).await;
    let (code, said, errors) = app.setup.run(&["api-keys", "revoke", id]).await;
    assert_eq!((code, said.as_str()), (1, ""), "{errors}");
    assert!(errors.contains(id), "{errors}");
    let (_, list, _) = app.setup.run(&["api-keys", "list"]).await;
    assert!(list.lines().any(|line| line.contains(id) && line.contains("revoked")), "{list}");
    app.finish().await;
}

#[tokio::test]
async fn a_key_lies_in_the_database_only_as_a_hash() {
    let app = Setup::new().await.start().await;
    let key = key_for(&app, &["payments:read"]).await;
    let client = app.setup.database.connect().await;
    let rows = client.query("select row_to_json(k)::text from donations.api_keys k", &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let row: String = row.get(0);
        for secret in [key.as_str(), ADMIN_KEY] {
            assert!(!row.contains(secret) && !row.contains(&hex::encode(secret)), "{row}");
        }
    }
    app.finish().await;
}

// Donors -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_donation_is_shown_to_its_own_token_and_to_operators_and_to_nobody_else() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let (mine, other) = (app.donate(&campaign, 2500).await, app.donate(&campaign, 2500).await);
    let path = format!("/api/v1/donations/{}", text(&mine["id"]));
    let (reader, stranger) = (key_for(&app, &["donations:read"]).await, key_for(&app, &["payments:write"]).await);
    let (token, payment) = (text(&mine["access_token"]), text(&mine["payment"]["client_secret"]));
    let longer = format!("{token}A");
    for (who, credential, expected) in [
        ("its own token", Some(token), 200),
        ("the first operator", Some(ADMIN_KEY), 200),
        ("an operator who may read donations", Some(&reader), 200),
        ("an operator who may not", Some(&stranger), 403),
        ("nobody", None, 401),
        ("another donation's token", Some(text(&other["access_token"])), 401),
        ("a part of its token", Some(&token[..token.len() - 1]), 401),
        ("more than its token", Some(&longer), 401),
        ("its client secret", Some(payment), 401),
        ("its own id", Some(text(&mine["id"])), 401),
    ] {
        let request = app.request(Method::GET, &path);
        let request = match credential {
            Some(credential) => request.bearer_auth(credential),
            None => request,
        };
        let (status, headers, body) = answer(request).await;
        assert_eq!(status.as_u16(), expected, "{who}: {body}");
        if expected == 200 {
            assert_eq!(body["id"], mine["id"], "{who}");
            assert!(body.get("access_token").is_none_or(Value::is_null), "{who} is shown the token");
            assert_eq!(headers["cache-control"], "no-store", "{who}");
        } else {
            assert!(!body.to_string().contains("amount_minor"), "{who}: {body}");
        }
    }
    let unknown = "/api/v1/donations/01980000-0000-7000-8000-000000000000";
    assert_eq!(read(app.request(Method::GET, unknown).bearer_auth(token)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(read(app.operator(Method::GET, unknown)).await.0, StatusCode::NOT_FOUND);
    let second = app.second().await;
    let shared = second.request(Method::GET, &path).bearer_auth(token).send().await.unwrap().status();
    assert_eq!(shared, StatusCode::OK, "every process of an installation takes the token");
    second.finish().await;
    app.finish().await;
}

#[tokio::test]
async fn no_log_knows_a_donor_a_key_a_token_or_a_secret_whatever_goes_wrong() {
    let setup = Setup::new().await.with("RUST_LOG", "trace");
    let app = setup.with("SMTP_URL", "smtp://canaryuser:canarypassword@127.0.0.1:1").start().await;
    let campaign = app.campaign().await;
    let body = json!({
        "campaign_id": campaign["id"], "amount_minor": 2500, "currency": "EUR", "message": "Canarymessage",
        "donor": {"name": "Canaryname", "email": "canarymail@example.org", "phone": "+4915177777777"},
    });
    let send = |body: &Value| app.request(Method::POST, "/api/v1/donations").json(body);
    let (status, donation) = read(send(&body)).await;
    assert_eq!(status, StatusCode::CREATED);
    // All that can go wrong with such a donation.
    for (at, value) in [
        ("/donor/email", json!("canarymail@@example.org")),
        ("/donor/name", json!("Canaryname\0")),
        ("/donor/phone", json!("canaryphone")),
        ("/message", json!("Canarymessage\0")),
        ("/amount_minor", json!("Canaryamount")),
        ("/currency", json!("Canarycurrency")),
        ("/campaign_id", json!("Canarycampaign")),
        ("/campaign_id", json!("01980000-0000-7000-8000-000000000000")),
    ] {
        let mut bad = body.clone();
        *bad.pointer_mut(at).unwrap() = value;
        assert!(read(send(&bad)).await.0.is_client_error(), "{at}");
    }
    app.control("/faults", json!({"mode": "error_500", "on": "create", "times": 2})).await;
    let (_, second) = read(send(&body)).await;
    let payments = app.request(Method::GET, "/api/v1/payments");
    assert_eq!(read(payments.bearer_auth("canarykey-0123456789")).await.0, StatusCode::UNAUTHORIZED);
    let (status, ..) =
        app.webhook_with(Some("t=1,v1=canarysignature"), "{\"email\": \"canarymail@example.org\"}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let mut strange = crate::support::intent_event(&donation, "payment_intent.succeeded", 1, json!({}));
    strange["data"]["object"]["receipt_email"] = json!("canarymail@example.org");
    strange["data"]["object"]["currency"] = json!("canarymail@example.org");
    assert_eq!(app.webhook(&strange).await.1["verdict"], "rejected");
    for (donation, method) in [(&donation, "pm_card_chargeDeclined"), (&donation, "pm_card_refundFail")] {
        app.pay(donation, method).await;
    }
    app.settle(&donation, "COMPLETED").await;
    let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
    assert_eq!(app.post(&format!("{payment}/refunds"), json!({"reason": "duplicate"})).await.0, StatusCode::CREATED);
    wait_until("a mail could not be sent", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where attempts > 0").await > 0
    })
    .await;
    let log = app.log();
    assert!(log.contains("a webhook's signature does not hold"), "it does log:\n{log}");
    let mut secrets = vec![ADMIN_KEY, SANDBOX_KEY, WEBHOOK_SECRET, "4915177777777"];
    for donation in [&donation, &second] {
        secrets.push(text(&donation["access_token"]));
        secrets.extend(donation["payment"]["client_secret"].as_str());
    }
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} in {:?}", log.lines().find(|line| line.contains(secret)));
    }
    let canary = log.lines().find(|line| line.to_lowercase().contains("canary"));
    assert_eq!(canary, None);
    app.finish().await;
}

// How often --------------------------------------------------------------------------------------------------------

/// Asks as this address says until it is refused: how often it was served, and the refusal's headers.
async fn ask_until_refused(app: &TestApp, path: &str, forwarded: Option<&str>) -> (u32, reqwest::header::HeaderMap) {
    for served in 0..50 {
        let request = app.request(Method::GET, path);
        let (status, headers, body) = answer(match forwarded {
            Some(address) => request.header("X-Forwarded-For", address),
            None => request,
        })
        .await;
        assert_eq!(headers["ratelimit-policy"], "\"default\";q=5;w=60");
        if status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(body["type"], "urn:careforall:problem:rate-limited");
            return (served, headers);
        }
        assert_eq!(status, StatusCode::OK, "{body}");
        let rest = headers["ratelimit"].to_str().unwrap();
        assert!(rest.starts_with("\"default\";r="), "{rest}");
    }
    panic!("never refused");
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_again_but_stripe_and_probes_never_are() {
    let app = Setup::new().await.with("CAREFORALL_RATE_LIMIT", "5/min").start().await;
    let (served, headers) = ask_until_refused(&app, "/api/v1/campaigns", None).await;
    assert!(served >= 5, "{served}");
    let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert!(headers["ratelimit"].to_str().unwrap().starts_with("\"default\";r=0;t="), "{headers:?}");
    // Nobody's word about another address is believed, nor is another route another count.
    let (more, _) = ask_until_refused(&app, "/api/v1/campaigns", Some("203.0.113.7")).await;
    assert!(more <= 1, "{more}");
    let post = app.request(Method::POST, "/api/v1/donations").json(&json!({}));
    assert!([400, 429].contains(&answer(post).await.0.as_u16()));
    for _ in 0..20 {
        for path in ["/health/live", "/health/ready", "/metrics"] {
            let (status, headers, _) = answer(app.request(Method::GET, path)).await;
            assert_eq!((status, headers.get("ratelimit")), (StatusCode::OK, None), "{path}");
        }
        let unrelated = crate::support::event("customer.created", crate::support::now(), json!({"id": "cus_1"}));
        assert_eq!(app.webhook(&unrelated).await.0, StatusCode::OK);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_forwarded_address_is_believed_only_from_a_trusted_proxy_and_only_the_last_one() {
    let setup = Setup::new().await.with("CAREFORALL_RATE_LIMIT", "5/min");
    let app = setup.with("CAREFORALL_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.1").start().await;
    for address in ["203.0.113.1", "203.0.113.2", "2001:db8::1"] {
        let (served, _) = ask_until_refused(&app, "/api/v1/campaigns", Some(address)).await;
        assert!(served >= 5, "{address}: {served}");
    }
    for forged in ["198.51.100.1, 203.0.113.1", "198.51.100.2, 203.0.113.2, 10.0.0.1", "rubbish, 203.0.113.1"] {
        let (served, _) = ask_until_refused(&app, "/api/v1/campaigns", Some(forged)).await;
        assert!(served <= 1, "{forged}: what the client wrote itself counts for nothing, {served}");
    }
    app.finish().await;
}

// The command line -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_bad_setting_is_told_in_a_line_of_its_own_and_the_program_ends_with_64() {
    let bad = [
        ("CAREFORALL_LISTEN", "nowhere-canary"),
        ("CAREFORALL_ADMIN_KEY", "canary"),
        ("CAREFORALL_RATE_LIMIT", "often-canary"),
        ("CAREFORALL_TRUSTED_PROXIES", "10.0.0.0/99,canary"),
        ("CAREFORALL_PUBLIC_URL", "canary.example.org"),
        ("CAREFORALL_LISTN", "canary"),
        ("DATABASE_URL", "mysql://canary@127.0.0.1/x"),
        ("REDIS_URL", "http://canary"),
        ("AMQP_URL", "http://canary"),
        ("STRIPE_SECRET_KEY", "pk_canary"),
        ("SMTP_URL", "ftp://canary"),
    ];
    let mut setup = Setup::new().await;
    for (name, value) in bad {
        setup = setup.with(name, value);
    }
    for subcommand in [&["serve"][..], &["migrate"], &["doctor"], &["api-keys", "list"], &[]] {
        let (code, output, errors) = setup.run(subcommand).await;
        assert_eq!((code, output.as_str()), (64, ""), "{subcommand:?}: {errors}");
        for (name, _) in bad {
            let lines = errors.lines().filter(|line| line.starts_with(&format!("{name}:"))).count();
            assert_eq!(lines, 1, "{name} in:\n{errors}");
        }
        assert_eq!(errors.lines().count(), bad.len(), "{errors}");
        assert!(!errors.contains("canary"), "a value may be a secret:\n{errors}");
    }
}

#[tokio::test]
async fn what_the_command_line_does_not_know_ends_with_64_and_help_with_0() {
    let setup = Setup::new().await;
    for wrong in [&["dance"][..], &["--colour"], &["api-keys"], &["api-keys", "create", "Jo", "--scope", "everything"]]
    {
        let (code, output, errors) = setup.run(wrong).await;
        assert_eq!((code, output.as_str()), (64, ""), "{wrong:?}");
        assert!(!errors.is_empty(), "{wrong:?}");
    }
    let (code, help, _) = setup.run(&["--help"]).await;
    assert_eq!(code, 0);
    for word in ["serve", "migrate", "doctor", "api-keys", "DATABASE_URL", "CAREFORALL_RATE_LIMIT"] {
        assert!(help.contains(word), "{word} in:\n{help}");
    }
    let (code, version, _) = setup.run(&["--version"]).await;
    assert_eq!((code, version.trim()), (0, concat!("careforall ", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn migrate_makes_an_empty_database_ready_and_says_so_once() {
    let mut setup = Setup::new().await;
    setup.database = Arc::new(create_database(None).await);
    let (code, output, errors) = setup.run(&["migrate"]).await;
    assert_eq!(code, 0, "{errors}");
    assert!(!output.is_empty() && output.lines().all(|line| line.starts_with("applied ")), "{output}");
    let again = setup.run(&["migrate"]).await;
    assert_eq!((again.0, again.1.as_str()), (0, "up to date\n"), "{}", again.2);
    let app = setup.start().await;
    app.donate(&app.campaign().await, 2500).await;
    app.finish().await;
    let gone = Setup::new().await.with("DATABASE_URL", "postgres://postgres@127.0.0.1:1/x");
    let (code, output, errors) = gone.run(&["migrate"]).await;
    assert_eq!((code, output.as_str()), (1, ""));
    assert!(!errors.is_empty() && !errors.contains("panicked"), "{errors}");
}

#[tokio::test]
async fn doctor_finds_everything_well_or_names_what_is_not() {
    let setup = Setup::new().await.with_redis();
    let (code, output, errors) = setup.run(&["doctor"]).await;
    assert_eq!(code, 0, "{output}{errors}");
    for part in ["postgres", "clock", "redis", "rabbitmq", "stripe", "webhooks", "mail", "listen"] {
        let line = output.lines().find(|line| line.split_whitespace().nth(1) == Some(part));
        assert!(line.is_some_and(|line| line.starts_with("OK")), "{part} in:\n{output}");
    }
    for (part, name, value) in [
        ("postgres", "DATABASE_URL", "postgres://postgres:canary@127.0.0.1:1/x"),
        ("redis", "REDIS_URL", "redis://:canary@127.0.0.1:1"),
        ("rabbitmq", "AMQP_URL", "amqp://guest:canary@127.0.0.1:1/%2f"),
        ("mail", "SMTP_URL", "smtp://jo:canary@127.0.0.1:1"),
    ] {
        let (code, output, errors) = setup.clone().with(name, value).run(&["doctor"]).await;
        assert_eq!(code, 1, "{part}:\n{output}{errors}");
        let sick: Vec<&str> = output.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(sick.len() == 1 && sick[0].split_whitespace().nth(1) == Some(part), "{part}:\n{output}");
        assert!(!output.contains("canary") && !errors.contains("canary"), "{part}:\n{output}{errors}");
    }
}
