//! What lies in `deploy/`, held against the code and by the programs that read it.
//!
//! Deliberately absent: the gateway, the backup, the image with its compose file, and the units, which have suites of their
//! own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use careforall::domain::payment::decide::Verdict;
use careforall::domain::payment::status::EDGES;
use careforall::metrics::METRICS;
use serde_json::Value;

use crate::support::tools::{ROOT, file, tool};

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const TESTS: [&str; 2] = ["deploy/prometheus/alerts_test.yml", "deploy/prometheus/slow_alerts_test.yml"];
const DASHBOARDS: [&str; 2] =
    ["deploy/grafana/dashboards/system-overview.json", "deploy/grafana/dashboards/money.json"];
/// What deploy/backup/backup writes for node_exporter, and what the rules themselves record.
const NOT_OF_THE_PROGRAM: [&str; 1] = ["careforall_backup_last_success_timestamp_seconds"];

/// The names beginning with `careforall_` in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("careforall_")
        .filter(|(at, _)| !text[..*at].ends_with(|c| is_name(c) || c == ':'))
        .map(|(at, _)| {
            let rest = &text[at..];
            &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
        })
        .collect()
}

/// The labels that a query selects by or sums over.
fn labels(text: &str) -> BTreeSet<&str> {
    let selected = text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).flat_map(|(inside, _)| {
        inside.split(',').filter_map(|it| it.split_once(['=', '!']).map(|(name, _)| name.trim()))
    });
    let grouped = ["by (", "by("].into_iter().flat_map(|by| {
        text.split(by).skip(1).filter_map(|rest| rest.split_once(')')).flat_map(|(inside, _)| inside.split(','))
    });
    selected
        .chain(grouped.map(str::trim))
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .collect()
}

fn exported() -> BTreeSet<String> {
    METRICS
        .definitions()
        .iter()
        .flat_map(|it| ["", "_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", it.name)))
        .collect()
}

/// Every query of a dashboard, with its panel's title.
fn queries(dashboard: &str) -> Vec<(String, String)> {
    let json: Value = serde_json::from_str(&file(dashboard)).expect("JSON");
    let panels = json["panels"].as_array().expect("panels").iter();
    panels
        .flat_map(|panel| {
            let title = panel["title"].as_str().expect("a title").to_owned();
            let targets = panel["targets"].as_array().into_iter().flatten();
            targets.map(move |target| (title.clone(), target["expr"].as_str().expect("a query").to_owned()))
        })
        .collect()
}

#[test]
fn dashboards_and_alert_rules_name_only_what_the_code_exports() {
    let exported = exported();
    let mut texts = vec![(ALERTS.to_owned(), file(ALERTS))];
    for dashboard in DASHBOARDS {
        texts.extend(queries(dashboard).into_iter().map(|(panel, query)| (format!("{dashboard}: {panel}"), query)));
    }
    let mut count = 0;
    for (place, text) in &texts {
        for name in names(text) {
            assert!(exported.contains(name) || NOT_OF_THE_PROGRAM.contains(&name), "{place}: nothing exports {name}");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} names were held against the code");
}

#[test]
fn queries_select_and_sum_by_labels_that_there_are() {
    let known: BTreeSet<String> = METRICS.definitions().iter().flat_map(|it| it.labels.clone()).collect();
    let of_prometheus = ["instance", "job", "le", "queue"];
    for dashboard in DASHBOARDS {
        for (panel, query) in queries(dashboard) {
            for label in labels(&query) {
                assert!(known.contains(label) || of_prometheus.contains(&label), "{dashboard}: {panel}: {label}");
            }
        }
    }
    let of_the_exporter = ["application_name", "slot_name"];
    for label in labels(&file(ALERTS)) {
        assert!(
            known.contains(label)
                || of_prometheus.contains(&label)
                || of_the_exporter.contains(&label)
                || label == "severity",
            "{ALERTS}: nothing has the label {label}"
        );
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_is_tried() {
    let (rules, runbook) = (file(ALERTS), file("docs/operating.md"));
    let tests: String = TESTS.map(file).concat();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 20, "{alerts:?}");
    for alert in alerts {
        assert!(runbook.contains(&format!("\n### {alert}\n")), "docs/operating.md has no section {alert}");
        let link = format!("runbook: docs/operating.md#{}\n", alert.to_lowercase());
        assert_eq!(rules.matches(&link).count(), 1, "{alert} must link to its own section");
        let tried: Vec<&str> = tests.split(&format!("alertname: {alert}\n")).skip(1).collect();
        let fires = |after: &&str| after.trim_start().starts_with("exp_alerts:\n");
        assert!(tried.iter().any(fires), "{alert} never fires in a test");
        assert!(!tried.iter().all(fires), "{alert} is never quiet in a test");
    }
}

#[test]
fn what_wakes_by_the_first_of_a_kind_begins_at_zero() {
    let text = String::from_utf8(METRICS.render()).unwrap();
    for verdict in
        [Verdict::Applied, Verdict::Duplicate, Verdict::Stale, Verdict::Rejected, Verdict::Parked, Verdict::Ignored]
    {
        let line = format!("careforall_webhook_events_total{{verdict=\"{}\"}} 0", verdict.as_str());
        assert!(text.contains(&line), "{line}\n{text}");
    }
    for line in [
        "careforall_webhook_signature_failures_total{reason=\"mismatch\"} 0",
        "careforall_consumer_events_total{consumer=\"audit\",outcome=\"dead_lettered\"} 0",
        "careforall_disputes_opened_total 0",
        "careforall_payments_flagged_total 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn what_a_day_brought_is_counted_from_its_first() {
    let text = String::from_utf8(METRICS.render()).unwrap();
    let begins = |line: &str| assert!(text.contains(line), "{line}\n{text}");
    for (from, next) in EDGES {
        for to in *next {
            let (from, to) = (from.as_str(), to.as_str());
            begins(&format!("careforall_payment_transitions_total{{from=\"{from}\",to=\"{to}\"}} 0"));
        }
    }
    begins("careforall_http_requests_total{method=\"POST\",route=\"/api/v1/donations\",status=\"201\"} 0");
}

fn promtool(words: &[&str]) {
    let Some(promtool) = tool("promtool") else { return };
    let output = Command::new(promtool).args(words).current_dir(ROOT).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn promtool_takes_the_configuration_and_the_rules() {
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"]);
    promtool(&["check", "rules", ALERTS]);
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    promtool(&[&["test", "rules"][..], &TESTS].concat());
}

#[test]
fn shellcheck_has_nothing_to_say_of_any_script() {
    let Some(shellcheck) = tool("shellcheck") else { return };
    let mut scripts: Vec<_> = Vec::new();
    for directory in ["scripts", "deploy/backup", ".ci"] {
        for entry in std::fs::read_dir(Path::new(ROOT).join(directory)).expect("scripts") {
            let path = entry.expect("a file").path();
            if std::fs::read(&path).is_ok_and(|text| {
                text.starts_with(b"#!") && text[..40.min(text.len())].windows(2).any(|it| it == b"sh")
            }) {
                scripts.push(path);
            }
        }
    }
    assert!(scripts.len() >= 8, "{scripts:?}");
    let output = Command::new(shellcheck)
        .args(["--severity=warning", "--external-sources", "--source-path", ROOT])
        .args(&scripts)
        .output();
    let output = output.expect("shellcheck runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn dashboards_are_what_grafana_provisions() {
    let mut identifiers = BTreeSet::new();
    for dashboard in DASHBOARDS {
        let json: Value = serde_json::from_str(&file(dashboard)).expect("JSON");
        for field in ["uid", "title", "time", "refresh", "schemaVersion", "panels"] {
            assert!(!json[field].is_null(), "{dashboard} lacks {field}");
        }
        assert!(json["id"].is_null(), "{dashboard}: Grafana gives the number");
        assert!(identifiers.insert(json["uid"].to_string()));
        let mut places = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            let kind = panel["type"].as_str().unwrap();
            assert!(
                ["row", "stat", "timeseries"].contains(&kind),
                "{dashboard}: Grafana has no {kind}, or we do not know it"
            );
            let mut letters = BTreeSet::new();
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert!(letters.insert(target["refId"].as_str().unwrap()), "{dashboard}: {}", panel["title"]);
                assert!(target["expr"].is_string() && target["legendFormat"].is_string(), "{}", panel["title"]);
                // What counts whole things over a day is no day of the calendar, and has no decimals.
                let is_count = target["expr"].as_str().unwrap().contains("[1d]");
                let title = panel["title"].as_str().unwrap();
                assert!(!is_count || title.ends_with(", last 24 h"), "{title}");
                assert!(!is_count || panel["fieldConfig"]["defaults"]["decimals"] == 0, "{title}");
            }
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            for (x, y) in (0..side("w")).flat_map(|x| (0..side("h")).map(move |y| (x, y))) {
                assert!(
                    taken.insert((side("x") + x, side("y") + y)),
                    "{dashboard}: {} lies on another",
                    panel["title"]
                );
            }
            assert!(places.insert(panel["id"].as_i64().unwrap()), "{dashboard}: two panels have one number");
            if panel["type"] != "row" {
                assert_eq!(panel["datasource"]["uid"], "prometheus", "{dashboard}: {}", panel["title"]);
                assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{dashboard}: {}", panel["title"]);
            }
            let place = &panel["gridPos"];
            assert!(place["x"].as_i64().unwrap() + place["w"].as_i64().unwrap() <= 24, "{}", panel["title"]);
        }
    }
    let datasource = file("deploy/grafana/provisioning/datasources/prometheus.yml");
    assert!(datasource.contains("uid: prometheus"));
}

#[test]
fn no_panel_is_empty_while_donors_give() {
    if tool("prometheus").is_none() || tool("python3").is_none() || tool("psql").is_none() {
        return;
    }
    let mut command = Command::new(Path::new(ROOT).join("scripts/check-dashboards"));
    let output = command.arg(env!("CARGO_BIN_EXE_careforall")).env("LOAD_S", "8").output().expect("it runs");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    let panels: usize = DASHBOARDS.iter().map(|dashboard| queries(dashboard).len()).sum();
    assert_eq!(table.lines().filter(|line| line.starts_with("| ")).count(), panels + 1, "{table}");
}

#[test]
fn the_alertmanager_silences_only_alerts_that_there_are() {
    let (rules, text) = (file(ALERTS), file("deploy/prometheus/alertmanager.yml"));
    let matched = text.lines().filter_map(|line| line.trim().strip_prefix("target_matchers: "));
    let names: Vec<&str> = matched.flat_map(|line| line.split('"').nth(1).unwrap().split('|')).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(rules.contains(&format!("- alert: {name}\n")), "{name}");
    }
}
