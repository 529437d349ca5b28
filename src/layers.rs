//! Who may import whom, as data, and the test that reads the sources and holds them to it; and that the documents name
//! what the code has.
//!
//! A new edge is a decision: it is added here with its reason, and in ARCHITECTURE.md. Deliberately absent: a parser.
//! Every path into another layer begins with `crate::`, and a path is found wherever it stands, in code or in a
//! comment. Relative paths (`super::super::`) that climb out of a layer are found as such and refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::config::{SETTINGS, Setting};

/// Each module at the top, and those that it may import besides itself. Nothing may import in a circle.
const LAYERS: &[(&str, &[&str])] = &[
    // The pure core imports nothing: no I/O, no clock, no metrics.
    ("domain", &[]),
    ("clock", &[]),
    ("metrics", &[]),
    // Whose work it is must be known wherever work is done, as the time must.
    ("trace", &["metrics"]),
    ("gateways", &["clock", "domain", "metrics", "trace"]),
    // The broker's client logs donors' data unless it is told not to; the gateway that knows says how.
    ("telemetry", &["gateways", "trace"]),
    ("store", &["clock", "domain", "metrics"]),
    // The Stripe double knows no actor, no store and no gateway of ours: it is spoken to over HTTP alone.
    ("sandbox", &["clock", "domain", "metrics"]),
    // A setting is checked by the code that will use it, so what passes here works there; that code takes what it needs
    // as arguments and never reads the configuration.
    ("config", &["domain", "gateways", "sandbox", "store", "trace"]),
    ("actors", &["clock", "config", "domain", "gateways", "metrics", "store", "trace"]),
    // Reads go to the store; signatures, event bodies and the breaker's state are the gateways'.
    ("http", &["actors", "clock", "config", "domain", "gateways", "metrics", "store", "trace"]),
    ("app", &["actors", "clock", "config", "domain", "gateways", "http", "metrics", "sandbox", "store", "trace"]),
    (
        "cli",
        &[
            "actors",
            "app",
            "clock",
            "config",
            "domain",
            "gateways",
            "http",
            "metrics",
            "sandbox",
            "store",
            "telemetry",
            "trace",
        ],
    ),
    ("layers", &["config"]),
    // The crate's roof only declares modules; the program only calls the command line.
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Two layers that a path would join, though the table does not.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Trespass {
    from: String,
    to: String,
}

/// What the source text of a file in the layer `from` imports and must not. `depth` is how many modules the file lies
/// below its layer: so many `super::` in a row stay inside, and one more in the file's own module of tests.
fn trespasses(from: &str, depth: usize, source: &str) -> BTreeSet<Trespass> {
    let allowed = LAYERS.iter().find(|(layer, _)| *layer == from).map_or(&[][..], |(_, allowed)| *allowed);
    let mut found: BTreeSet<String> = named_after(source, "crate::")
        .chain(named_after(source, "careforall::"))
        .filter(|to| to != from && !allowed.contains(&to.as_str()))
        .collect();
    let (code, tests) = source.split_once("mod tests {").unwrap_or((source, ""));
    for (text, inside) in [(code, depth), (tests, depth + 1)] {
        let climbs = "super::".repeat(inside + 1);
        if text.contains(&climbs) {
            found.insert(climbs);
        }
    }
    found.into_iter().map(|to| Trespass { from: from.to_owned(), to }).collect()
}

/// The names right after each `prefix`; a list in braces counts as its own forbidden name, to keep paths readable.
fn named_after(source: &str, prefix: &str) -> impl Iterator<Item = String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.match_indices(prefix).filter(move |(at, _)| !source[..*at].ends_with(is_name)).map(move |(at, _)| {
        let rest = &source[at + prefix.len()..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if end == 0 { rest.chars().take(1).collect() } else { rest[..end].to_owned() }
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `src`, with its path from there.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    let (mut found, mut directories) = (Vec::new(), vec![src.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&src).unwrap().to_owned(), text));
            }
        }
    }
    found
}

/// The layer of a file, and how many modules below the layer's own it lies.
fn place(path: &Path) -> (String, usize) {
    let mut parts: Vec<String> =
        path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    (parts[0].clone(), parts.len() - 1)
}

/// The text between `heading` and the next heading of the same or a higher level.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document.find(heading).unwrap_or_else(|| panic!("there is no {heading:?}")) + heading.len();
    let rest = &document[start..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// The first cell of each row of the first table in `text`, without its code marks; the header is left out.
fn first_cells(text: &str) -> Vec<&str> {
    let rows = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).filter_map(|row| row.split('|').nth(1)).map(|cell| cell.trim().trim_matches('`')).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn no_layer_imports_what_it_must_not() {
    let found: Vec<(PathBuf, BTreeSet<Trespass>)> = sources()
        .into_iter()
        .filter(|(path, _)| path != Path::new("layers.rs")) // its samples trespass on purpose
        .map(|(path, text)| {
            let (layer, depth) = place(&path);
            let trespasses = trespasses(&layer, depth, &text);
            (path, trespasses)
        })
        .filter(|(_, trespasses)| !trespasses.is_empty())
        .collect();
    assert!(found.is_empty(), "see LAYERS in src/layers.rs: {found:#?}");
}

#[test]
fn every_module_at_the_top_stands_in_the_table_once() {
    let there: BTreeSet<String> = sources().iter().map(|(path, _)| place(path).0).collect();
    let known: BTreeSet<String> = LAYERS.iter().map(|(layer, _)| (*layer).to_owned()).collect();
    assert_eq!(there, known);
    assert_eq!(known.len(), LAYERS.len());
}

#[test]
fn the_table_has_no_circle() {
    let mut rest: BTreeMap<&str, BTreeSet<&str>> =
        LAYERS.iter().map(|(layer, allowed)| (*layer, allowed.iter().copied().collect())).collect();
    while !rest.is_empty() {
        let free: Vec<&str> = rest.iter().filter(|(_, allowed)| allowed.is_empty()).map(|(layer, _)| *layer).collect();
        assert!(!free.is_empty(), "these import each other: {rest:?}");
        for layer in free {
            rest.remove(layer);
            rest.values_mut().for_each(|allowed| allowed.retain(|other| *other != layer));
        }
    }
}

#[test]
fn a_forbidden_edge_is_found_wherever_it_stands() {
    let to = |from: &str, source: &str| -> Vec<String> {
        trespasses(from, 1, source).into_iter().map(|trespass| trespass.to).collect()
    };
    assert_eq!(to("domain", "use crate::clock::Clock;"), ["clock"]);
    assert_eq!(to("domain", "use crate::domain::money::Currency;"), Vec::<String>::new());
    assert_eq!(to("store", "fn f(it: crate::actors::facts::Wake) {}"), ["actors"]);
    assert_eq!(to("gateways", "pub(in crate::gateways) fn f() {}\nuse crate::store::Store;"), ["store"]);
    assert_eq!(to("sandbox", "use crate::gateways::signature::verify;"), ["gateways"]);
    assert_eq!(to("actors", "use crate::http::problem::Problem;"), ["http"]);
    assert_eq!(to("http", "use crate::{store, sandbox};"), ["{"]);
    assert_eq!(to("main", "careforall::app::database(config)"), ["app"]);
    assert_eq!(to("http", "use mycrate::sandbox::Sandbox;"), Vec::<String>::new());
    assert_eq!(to("store", "use super::super::http::AppState;"), ["super::super::"]);
    assert_eq!(to("store", "mod tests { use super::super::Store; }"), Vec::<String>::new());
    assert_eq!(to("store", "mod tests { use super::super::super::http::AppState; }"), ["super::super::super::"]);
}

/// One row of the table of settings. A value is marked as code, words are not.
fn settings_row(setting: &Setting) -> String {
    let is_value = !setting.default.contains(' ') || setting.default.contains('<');
    let default = if is_value { format!("`{}`", setting.default) } else { setting.default.to_owned() };
    format!("| `{}` | {default} | {} |\n", setting.name, setting.help)
}

#[test]
fn the_operators_guide_has_every_setting_as_the_code_has_it() {
    const GUIDE: &str = "docs/operating.md";
    const BEGIN: &str =
        "<!-- settings: made from the code by CAREFORALL_WRITE_DOCS=1 cargo test --lib every_setting -->\n";
    const END: &str = "<!-- end of settings -->";
    let guide = read(GUIDE);
    let (before, rest) = guide.split_once(BEGIN).expect("a place for the table");
    let (there, after) = rest.split_once(END).expect("its end");
    let rows: String = SETTINGS.iter().map(settings_row).collect();
    let made = format!("| setting | default | what it is for |\n|---|---|---|\n{rows}");
    if std::env::var_os("CAREFORALL_WRITE_DOCS").is_some() {
        std::fs::write(root().join(GUIDE), format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(there, made, "see the comment above the table in {GUIDE}");
}

#[test]
fn the_settings_that_the_readme_shows_are_as_the_code_has_them() {
    let readme = read("README.md");
    let table = section(&readme, "\n## Configuration\n");
    let shown = first_cells(table);
    assert!(!shown.is_empty());
    for name in shown {
        let setting =
            SETTINGS.iter().find(|setting| setting.name == name).unwrap_or_else(|| panic!("no setting {name}"));
        assert!(table.contains(&settings_row(setting)), "README.md must have: {}", settings_row(setting));
    }
}

#[test]
fn every_decision_record_has_a_number_of_its_own() {
    let names: Vec<String> = std::fs::read_dir(root().join("docs/adr"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut numbers = BTreeSet::new();
    for name in &names {
        let (number, words) = name.split_once('-').unwrap_or_else(|| panic!("{name}: must be NNNN-words.md"));
        assert!(number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) && words.ends_with(".md"), "{name}");
        assert!(numbers.insert(number.to_owned()), "{name}: two records have this number");
        let text = read(&format!("docs/adr/{name}"));
        assert!(text.starts_with(&format!("# {number}: ")), "{name}: the title must begin with its number");
    }
    assert!(!numbers.is_empty());
}

#[test]
fn the_map_in_the_architecture_has_every_file_of_the_layers() {
    let map = read("ARCHITECTURE.md");
    for (path, _) in sources() {
        // Below the second level the module's own `//!` is the map.
        if path.iter().count() <= 2 {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let named = map.contains(&format!("`{name}`")) || map.contains(&format!("`{}`", path.display()));
            assert!(named || name == "mod" || path.starts_with("sandbox"), "ARCHITECTURE.md lacks {}", path.display());
        }
    }
}

#[test]
fn every_test_that_an_invariant_names_is_there() {
    let architecture = read("ARCHITECTURE.md");
    let code: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut checked = 0;
    for line in section(&architecture, "\n## Invariants\n").lines() {
        // Sentences are told from other names by their length; a suite is looked into where it is named.
        let marked: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let suite =
            marked.iter().find(|name| name.starts_with("tests/") && name.ends_with(".rs")).map(|path| read(path));
        for name in marked.iter().filter(|name| name.matches('_').count() >= 4) {
            let known = suite.as_ref().unwrap_or(&code);
            assert!(known.contains(&format!("fn {name}(")), "ARCHITECTURE.md names a test that is not there: {name}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} tests are named");
}
