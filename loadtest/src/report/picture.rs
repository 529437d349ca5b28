//! The figures that the picture of the old system states ("Performance characteristics"), to stand beside ours.

/// One of its lines.
pub struct Line {
    /// What it is about.
    pub what: &'static str,
    /// What it says.
    pub says: &'static str,
    /// What we set against it.
    pub ours: &'static str,
}

/// All of them.
pub const PICTURE: [Line; 10] = [
    Line { what: "donation creation, p95", says: "~50 ms", ours: "≤ 5 ms at 3,000/s" },
    Line { what: "payment webhook (cached), p95", says: "~5 ms", ours: "≤ 1 ms (a duplicate)" },
    Line { what: "payment webhook (uncached), p95", says: "~100 ms", ours: "≤ 8 ms at 2,000/s (a new one)" },
    Line { what: "totals (cached), p95", says: "~10 ms", ours: "≤ 0.5 ms" },
    Line { what: "totals (real-time), p95", says: "~200 ms", ours: "≤ 5 ms with a million donations" },
    Line { what: "a service replica", says: "~500 req/s", ours: "≥ 8,000 donations/s in one process" },
    Line { what: "three replicas of a service", says: "~1,500 req/s", ours: "–" },
    Line { what: "the whole system", says: "~3,000 req/s", ours: "≥ 40,000/s totals from memory" },
    Line { what: "cache hits", says: "Redis 90 %, view 9 %, live 1 %", ours: "see the notes of the totals" },
    Line { what: "database connections", says: "20 a service, 40 more, 60 in all", ours: "18 a process" },
];
