//! The report as one page: tables and plots in SVG, with everything inside; it may be mailed and opened anywhere.
//!
//! Deliberately absent: scripts and anything fetched.

use std::fmt::Write;
use std::path::Path;

use super::Report;
use super::picture::PICTURE;
use crate::measure::{Latency, Measure, Run, milliseconds, thousands};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-top:1px solid #d0d7de;padding-top:1rem}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.88rem}\
th,td{text-align:right;padding:.25rem .55rem;border-bottom:1px solid #e4e8ec;white-space:nowrap}\
th:first-child,td:first-child,th.l,td.l{text-align:left}.wrap{overflow-x:auto}\
.bad{color:#b42318;font-weight:600}.good{color:#1a7f37}.plots{display:flex;flex-wrap:wrap;gap:1rem;margin:.6rem 0}\
svg{background:#f6f8fa;border-radius:4px}svg text{font:11px system-ui,sans-serif;fill:#57606a}\
ul{padding-left:1.2rem}figure{margin:0}figcaption{font-size:.8rem;color:#57606a}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}svg{background:#161b22}\
th,td,h2{border-color:#30363d}.bad{color:#ff7b72}.good{color:#3fb950}svg text{fill:#8b949e}}";

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 10.0;

/// Writes it.
pub fn write(report: &Report, file: &Path) -> Result<(), String> {
    std::fs::write(file, render(report)).map_err(|error| format!("{}: {error}", file.display()))
}

/// The page.
pub fn render(report: &Report) -> String {
    let mut page = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    let mut put = |text: &str| page.push_str(text);
    put(
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>CareForAll under load</title><style>",
    );
    put(STYLE);
    put("</style></head><body><h1>CareForAll under load</h1>");
    put(&format!(
        "<p>{}<br>{}<br>{}</p>",
        escaped(&day(report.made_at_ms)),
        escaped(&report.machine.line()),
        report.targets.iter().map(|target| escaped(target)).collect::<Vec<_>>().join("<br>")
    ));
    put(&verdict(report));
    put(&table(report));
    put(&picture());
    for run in &report.runs {
        put(&section(run));
    }
    put("</body></html>\n");
    page
}

fn verdict(report: &Report) -> String {
    let mut text = String::from("<h2>Audit</h2><ul>");
    let mut item = |class: &str, words: &str| text.push_str(&format!("<li class=\"{class}\">{}</li>", escaped(words)));
    if report.audits.is_empty() {
        item("bad", "Not audited: nobody could look into the database.");
    }
    for held in report.audits.iter().flat_map(|audit| &audit.held) {
        item("good", held);
    }
    report.faults().iter().for_each(|fault| item("bad", fault));
    if report.is_interrupted {
        item("bad", "It was ended early.");
    }
    text + "</ul>"
}

fn table(report: &Report) -> String {
    let mut text = String::from(
        "<h2>Figures</h2><p>Latencies run from when a request was due, not from when it could be sent.</p><div class=\"wrap\"><table>\
         <tr><th>scenario</th><th class=\"l\">what</th><th class=\"l\">manner</th><th>done/s</th><th>p50</th><th>p95</th>\
         <th>p99</th><th>p99.9</th><th>max</th><th>the picture, p95</th><th>ours to be, p95</th><th class=\"l\">not done</th></tr>",
    );
    for measure in report.runs.iter().flat_map(|run| &run.measures) {
        text.push_str(&row(measure));
    }
    text + "</table></div>"
}

fn row(measure: &Measure) -> String {
    let it = &measure.latency;
    let [p50, p95, p99, p999, max] = [it.p50_us, it.p95_us, it.p99_us, it.p999_us, it.max_us].map(milliseconds);
    let promised = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"));
    let class = match measure.promise.ours_p95_ms {
        Some(ours_ms) if it.p95_us as f64 <= ours_ms * 1000.0 && !measure.is_overloaded() => " class=\"good\"",
        Some(_) => " class=\"bad\"",
        None => "",
    };
    format!(
        "<tr><td>{}</td><td class=\"l\">{}</td><td class=\"l\">{}</td><td>{}</td><td>{p50}</td><td{class}>{p95}</td>\
         <td>{p99}</td><td>{p999}</td><td>{max}</td><td>{}</td><td>{}</td><td class=\"l bad\">{}</td></tr>",
        escaped(&measure.scenario),
        escaped(&measure.what),
        escaped(&measure.manner),
        thousands(measure.per_second.round() as u64),
        promised(measure.promise.picture_p95_ms),
        promised(measure.promise.ours_p95_ms),
        measure.undone().join(", "),
    )
}

fn picture() -> String {
    let mut text = String::from(
        "<h2>The picture's figures</h2><div class=\"wrap\"><table><tr><th>what</th><th class=\"l\">the picture</th>\
         <th class=\"l\">ours to be</th></tr>",
    );
    for line in &PICTURE {
        let _ = write!(
            text,
            "<tr><td>{}</td><td class=\"l\">{}</td><td class=\"l\">{}</td></tr>",
            escaped(line.what),
            escaped(line.says),
            escaped(line.ours)
        );
    }
    text + "</table></div>"
}

fn section(run: &Run) -> String {
    let mut text = String::new();
    for measure in &run.measures {
        let title = format!("{}: {}, {}", measure.scenario, measure.what, measure.manner);
        let _ = write!(text, "<h2>{}</h2><div class=\"plots\">", escaped(&title));
        text.push_str(&over_time(measure));
        text.push_str(&by_percentile(measure));
        text.push_str(&throughput(measure));
        text.push_str("</div>");
    }
    let complaints = run.complaints.iter().map(|(complaint, count)| format!("{} × {complaint}", thousands(*count)));
    let notes: String =
        run.notes.iter().cloned().chain(complaints).map(|note| format!("<li>{}</li>", escaped(&note))).collect();
    if notes.is_empty() { text } else { format!("{text}<ul>{notes}</ul>") }
}

/// A curve: its colour, its name, its points.
struct Curve {
    colour: &'static str,
    name: &'static str,
    points: Vec<(f64, f64)>,
}

fn over_time(measure: &Measure) -> String {
    let curve = |colour, name, of: fn(&Latency) -> u64| Curve {
        colour,
        name,
        points: measure.moments.iter().map(|moment| (moment.at_s, of(&moment.latency) as f64 / 1000.0)).collect(),
    };
    let curves = [
        curve("#2da44e", "p50", |latency| latency.p50_us),
        curve("#bf8700", "p95", |latency| latency.p95_us),
        curve("#cf222e", "p99", |latency| latency.p99_us),
    ];
    plot("latency over time (ms by s; grey: warm-up)", &curves, measure.warm_up_s, seconds_label)
}

fn by_percentile(measure: &Measure) -> String {
    // Even in the number of nines.
    let points =
        measure.percentiles.iter().enumerate().map(|(step, (_, us))| (step as f64 / 10.0, *us as f64 / 1000.0));
    let curve = Curve { colour: "#0969da", name: "", points: points.collect() };
    plot("latency by percentile (ms)", &[curve], 0.0, |nines| match nines.round() as i64 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        3 => "99.9 %".to_owned(),
        _ => "99.99 %".to_owned(),
    })
}

fn throughput(measure: &Measure) -> String {
    let points = |of: fn(&crate::measure::Moment) -> f64| {
        measure.moments.iter().map(|moment| (moment.at_s, of(moment))).collect()
    };
    let curves = [
        Curve { colour: "#0969da", name: "done", points: points(|moment| moment.per_second) },
        Curve { colour: "#cf222e", name: "refused or failed", points: points(|moment| moment.undone_per_second) },
    ];
    plot("throughput (a second, by s)", &curves, measure.warm_up_s, seconds_label)
}

fn seconds_label(seconds: f64) -> String {
    format!("{seconds:.0}")
}

fn plot(caption: &str, curves: &[Curve], shaded_until: f64, label: fn(f64) -> String) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let right = all().map(|(x, _)| *x).fold(0.0, f64::max).max(1.0);
    let top = round_up(all().map(|(_, y)| *y).fold(0.0, f64::max));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / right;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top;
    let mut svg = format!(
        "<figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\"><title>{}</title>",
        escaped(caption)
    );
    let mut put = |text: String| svg.push_str(&text);
    if shaded_until > 0.0 {
        let width = x(shaded_until.min(right)) - LEFT;
        put(format!(
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"#8884\"/>",
            HEIGHT - BOTTOM - TOP
        ));
    }
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let at = y(value);
        put(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#8883\"/>", WIDTH - RIGHT));
        put(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, short(value)));
        let across = right * f64::from(step) / 4.0;
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(across),
            HEIGHT - 8.0,
            label(across)
        ));
    }
    for (place, curve) in curves.iter().enumerate() {
        let points: Vec<String> = curve.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        put(format!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>",
            curve.colour,
            points.join(" ")
        ));
        let across = LEFT + 8.0 + 50.0 * place as f64;
        put(format!(
            "<text x=\"{across:.1}\" y=\"{:.1}\" style=\"fill:{}\">{}</text>",
            TOP + 10.0,
            curve.colour,
            curve.name
        ));
    }
    svg + &format!("</svg><figcaption>{}</figcaption></figure>", escaped(caption))
}

/// The next of 1, 2, 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|round| *round >= value).unwrap_or(value)
}

fn short(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.0}k", value / 1000.0)
    } else if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The day and time in UTC, by the civil calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn day(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(0);
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn a_page_with_nothing_measured_is_whole_and_fetches_nothing() {
        let report = Report {
            machine: Machine::here(),
            targets: vec!["<script>".to_owned()],
            made_at_ms: 1_795_390_784_000,
            runs: Vec::new(),
            audits: Vec::new(),
            is_interrupted: false,
        };
        let page = render(&report);
        assert!(page.ends_with("</html>\n") && page.contains("Not audited") && page.contains("&lt;script&gt;"));
        for outside in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn days_are_counted_by_the_calendar() {
        assert_eq!(day(0), "1970-01-01 00:00 UTC");
        assert_eq!(day(951_826_500_000), "2000-02-29 12:15 UTC");
        assert_eq!(day(1_795_390_784_000), "2026-11-22 23:39 UTC");
    }

    #[test]
    fn axes_end_on_round_numbers() {
        assert_eq!([0.0, 0.7, 1.0, 3.1, 99.0, 1200.0].map(round_up), [1.0, 1.0, 1.0, 5.0, 100.0, 2000.0]);
    }
}
