//! `deploy/docker-compose.yml` and `deploy/docker/Dockerfile`: read by Docker's own compose and by linters, and held against
//! the program that they start.
//!
//! Deliberately absent: running them, which needs Docker's daemon and its registry.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use careforall::config::{Config, SETTINGS};
use serde_json::Value;

use crate::support::tools::{ROOT, file, venv_tool};

const FILE: &str = "deploy/docker-compose.yml";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const REPLICAS: [&str; 3] = ["careforall-1", "careforall-2", "careforall-3"];
/// What the images of others read from their environment.
const OF_OTHERS: [(&str, &[&str]); 5] = [
    ("postgres", &["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"]),
    ("rabbitmq", &["RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"]),
    ("postgres-exporter", &["DATA_SOURCE_NAME"]),
    ("backup", &["DATABASE_URL", "BACKUP_DIR", "BACKUP_DAILY", "BACKUP_WEEKLY", "BACKUP_TEXTFILE_DIR"]),
    (
        "grafana",
        &["GF_SECURITY_ADMIN_PASSWORD", "GF_ANALYTICS_REPORTING_ENABLED", "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"],
    ),
];

/// What compose makes of the file with `.env.example`, its secrets filled in, and `settings` beside it.
fn compose(settings: &[(&str, &str)]) -> Option<Output> {
    let program = venv_tool("docker-compose")?;
    let directory = tempfile::tempdir().unwrap();
    let example = file("deploy/.env.example");
    let lines = example.lines().map(|line| match line.strip_suffix('=') {
        Some(name) if name.ends_with("PASSWORD") || name == "ADMIN_KEY" => format!("{name}={SECRET}\n"),
        _ => format!("{line}\n"),
    });
    let env = directory.path().join("env");
    std::fs::write(&env, lines.collect::<String>()).unwrap();
    let mut command = Command::new(program);
    command.arg("--env-file").arg(env).args(["--file", FILE, "config", "--format", "json"]).current_dir(ROOT);
    command.env_clear().env("HOME", directory.path()).envs(settings.iter().copied());
    Some(command.output().expect("compose runs"))
}

fn model(settings: &[(&str, &str)]) -> Option<Value> {
    let output = compose(settings)?;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn services(model: &Value) -> impl Iterator<Item = (&str, &Value)> {
    model["services"].as_object().expect("services").iter().map(|(name, service)| (name.as_str(), service))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What the program finds in its environment in that service, behind the shell that stands before it in some.
fn environment(service: &Value) -> BTreeMap<String, String> {
    use std::os::unix::fs::PermissionsExt;
    let given = service["environment"].as_object().expect("an environment").iter();
    let given = given.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let Some(entry) = service["entrypoint"].as_array() else { return given.collect() };
    // `config` doubles what it would have taken for a variable of its own.
    let words: Vec<String> = entry.iter().map(|it| it.as_str().unwrap().replace("$$", "$")).collect();
    let directory = tempfile::tempdir().unwrap();
    let stub = directory.path().join("careforall");
    std::fs::write(&stub, "#!/bin/sh\n[ \"$*\" = serve ] && exec env\n").unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new(&words[0]).args(&words[1..]).env_clear().envs(given).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    told.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

#[test]
fn docker_compose_takes_the_file_and_asks_for_every_secret() {
    let Some(model) = model(&[]) else { return };
    assert_eq!(services(&model).filter(|(name, _)| name.starts_with("careforall-")).count(), 3);
    let output = compose(&[("ADMIN_KEY", "")]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("see .env.example"), "{said}");
    for line in file(FILE).lines().filter(|line| line.contains(":?")) {
        let name = line.split("${").nth(1).and_then(|rest| rest.split(':').next()).expect("a name");
        assert!(file("deploy/.env.example").contains(&format!("\n{name}=\n")), "{name}");
    }
}

#[test]
fn the_file_is_as_the_compose_specification_has_it() {
    let Some(check) = venv_tool("check-jsonschema") else { return };
    let mut command = Command::new(check);
    let output = command.args(["--builtin-schema", "vendor.compose-spec", FILE]).current_dir(ROOT).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn hadolint_has_nothing_to_say_of_the_image_and_it_is_built_by_the_oldest_compiler_that_we_promise() {
    let text = file("deploy/docker/Dockerfile");
    let promised = file("Cargo.toml");
    let version = promised.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(text.contains(&format!("\nFROM rust:{version}-")), "rust-version is {version}");
    let user = text.lines().find_map(|line| line.strip_prefix("USER ")).expect("a user");
    assert!(user.parse::<u32>().is_ok_and(|user| user > 0) && text.contains(&format!("--uid {user} ")));
    for line in text.lines().filter_map(|line| line.strip_prefix("ENV ")) {
        for name in line.split(' ').filter_map(|word| word.split_once('=')).map(|(name, _)| name) {
            assert!(SETTINGS.iter().any(|setting| setting.name == name), "{name}");
        }
    }
    let Some(hadolint) = venv_tool("hadolint") else { return };
    let output = Command::new(hadolint).arg("deploy/docker/Dockerfile").current_dir(ROOT).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn images_are_pinned_files_are_there_and_only_the_gateway_is_for_everybody() {
    let Some(model) = model(&[]) else { return };
    for (name, service) in services(&model) {
        let image = service["image"].as_str().expect("an image");
        let (_, tag) = image.rsplit_once(':').unwrap_or((image, ""));
        let ours = service["build"].is_object();
        assert!(ours || tag.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()), "{name}: {image}");
        for volume in list(&service["volumes"]).filter(|volume| volume["type"] == "bind") {
            let source = PathBuf::from(volume["source"].as_str().unwrap());
            assert!(source.exists(), "{name}: {}", source.display());
            assert_eq!(volume["read_only"], true, "{name}: {}", source.display());
        }
        for port in list(&service["ports"]) {
            assert!(name == "gateway" || port["host_ip"] == "127.0.0.1", "{name}: {port}");
        }
    }
    let build = &model["services"]["careforall-1"]["build"];
    let context = Path::new(build["context"].as_str().unwrap());
    assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file() && context.join("Cargo.lock").is_file());
}

#[test]
fn every_name_in_an_environment_is_one_that_somebody_reads() {
    let Some(model) = model(&[]) else { return };
    for (name, service) in services(&model) {
        let of_image: Vec<&str> = match OF_OTHERS.iter().find(|(other, _)| *other == name) {
            Some((_, names)) => names.to_vec(),
            None => SETTINGS.iter().map(|setting| setting.name).collect(),
        };
        for variable in service["environment"].as_object().into_iter().flatten().map(|(variable, _)| variable) {
            assert!(of_image.contains(&variable.as_str()), "{name}: nobody reads {variable}");
        }
    }
}

/// The program's own reading of what it is given.
fn stripe(model: &Value) -> Vec<careforall::config::StripeConfig> {
    let read = |name: &&str| {
        let env = environment(&model["services"][name]);
        Config::read(env, None).unwrap_or_else(|problems| panic!("{name}: {problems:?}")).stripe
    };
    REPLICAS.iter().map(read).collect()
}

#[tokio::test]
async fn without_a_key_the_first_replica_plays_stripe_for_all_and_with_one_all_speak_to_stripe() {
    let Some(alone) = model(&[]) else { return };
    let alone = stripe(&alone);
    assert!(alone[0].api_base.is_none() && alone[0].sandbox.is_some());
    for beside in &alone[1..] {
        assert_eq!(beside.api_base.as_deref(), Some("http://careforall-1:8080/sandbox/stripe"));
        assert_eq!(beside.secret_key, alone[0].secret_key);
    }
    let key = [("STRIPE_SECRET_KEY", "sk_test_theirs"), ("STRIPE_WEBHOOK_SECRET", "whsec_theirs")];
    for with_key in stripe(&model(&key).unwrap()) {
        assert_eq!(with_key.api_base.as_deref(), Some("https://api.stripe.com"));
        assert!(with_key.secret_key == "sk_test_theirs" && with_key.sandbox.is_none());
    }
    // Half of it is refused by each of them, with the name of what lacks.
    let half = model(&key[..1]).unwrap();
    for name in REPLICAS {
        let problems = Config::read(environment(&half["services"][name]), None).err().expect("refused");
        assert!(problems.iter().any(|problem| problem.starts_with("STRIPE_WEBHOOK_SECRET")), "{problems:?}");
    }
}

#[test]
fn the_address_that_is_trusted_is_the_gateways_and_nobody_else_can_be_given_it() {
    let Some(model) = model(&[]) else { return };
    let gateway = &model["services"]["gateway"]["networks"]["inside"]["ipv4_address"];
    let gateway: Ipv4Addr = gateway.as_str().unwrap().parse().unwrap();
    for name in REPLICAS {
        assert_eq!(environment(&model["services"][name])["CAREFORALL_TRUSTED_PROXIES"], gateway.to_string());
    }
    let pool = &model["networks"]["inside"]["ipam"]["config"][0];
    let within = |network: &str, address: Ipv4Addr| {
        let (start, bits) = network.split_once('/').unwrap();
        let (start, bits) = (start.parse::<Ipv4Addr>().unwrap(), bits.parse::<u32>().unwrap());
        (start.to_bits() ^ address.to_bits()) >> (32 - bits) == 0
    };
    assert!(within(pool["subnet"].as_str().unwrap(), gateway));
    assert!(!within(pool["ip_range"].as_str().unwrap(), gateway));
}

#[test]
fn whatever_speaks_to_a_service_names_one_that_there_is() {
    let Some(model) = model(&[]) else { return };
    let there: Vec<&str> = services(&model).map(|(name, _)| name).collect();
    let upstream = file("deploy/nginx/upstream.compose.conf");
    let servers: Vec<&str> = upstream.lines().filter_map(|line| line.trim().strip_prefix("server ")).collect();
    assert_eq!(servers.len(), REPLICAS.len());
    for (server, replica) in servers.iter().zip(REPLICAS) {
        assert_eq!(*server, format!("{replica}:8080 resolve max_fails=5 fail_timeout=10s;"));
    }
    let prometheus = file("deploy/prometheus/prometheus.yml");
    for targets in prometheus.lines().filter_map(|line| line.trim().strip_prefix("- targets: ")) {
        let targets: Vec<String> = serde_json::from_str(targets).expect("a list");
        for target in targets {
            let (host, _) = target.split_once(':').expect("a port");
            assert!(there.contains(&host) || host == "localhost", "{target}");
        }
    }
    for (name, service) in services(&model) {
        for url in service["environment"].as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str()) {
            let Some((_, rest)) = url.split_once("://") else { continue };
            let host = rest.rsplit('@').next().unwrap_or(rest).split([':', '/']).next().unwrap();
            assert!(there.contains(&host) || host == "localhost", "{name}: {url}");
        }
    }
}
