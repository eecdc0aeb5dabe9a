//! The parts of a page, from top to bottom. Each writes nothing where there is nothing to tell.

use std::fmt::Write;

use super::chart::{Axis, COLOURS, Chart, Dots, Series, rarity};
use super::{Report, Side, escape, grouped, number};
use crate::compare::{interval, median};
use crate::machine::Machine;
use crate::report::RunResult;

/// A figure of a run, what it is called and where it is in JSON.
type Figure = (&'static str, &'static str, fn(&RunResult) -> f64);

const FIGURES: [Figure; 13] =
    [
        ("p50 µs", "p50_us", |it| told(it, it.p50_us)),
        ("p95 µs", "p95_us", |it| told(it, it.p95_us)),
        ("p99 µs", "p99_us", |it| told(it, it.p99_us)),
        ("p99.9 µs", "p999_us", |it| told(it, it.p999_us)),
        ("max µs", "max_us", |it| told(it, it.max_us)),
        ("deliveries/s", "deliveries_per_second", |it| told(it, it.deliveries_per_second)),
        ("bytes a delivery", "bytes_per_delivery", |it| told(it, it.bytes_per_delivery)),
        ("bytes a publish", "bytes_per_publish", |it| told(it, it.bytes_per_publish)),
        ("compressed", "compressed_share", |it| {
            if it.dialect.is_deflated { it.compressed_share } else { f64::NAN }
        }),
        ("connections", "connections", |it| it.connections as f64),
        ("connected in s", "connect_seconds", |it| it.connect_seconds),
        ("resident KiB", "resident_kib", |it| it.resident_kib as f64),
        ("descriptors", "descriptors", |it| it.descriptors as f64),
    ];

/// Of a run without publishes nothing about deliveries is told.
fn told(run: &RunResult, value: f64) -> f64 {
    if run.published > 0 { value } else { f64::NAN }
}

/// Of several rounds.
fn middle(runs: &[RunResult], of: fn(&RunResult) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).filter(|it| it.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    if values.is_empty() { f64::NAN } else { median(&values) }
}

impl Side<'_> {
    fn title(&self) -> String {
        self.letter.map_or_else(|| self.server.to_owned(), |letter| format!("{letter}: {}", self.server))
    }

    /// Where there is no room for more.
    fn short(&self) -> String {
        self.letter.map_or_else(|| self.server.to_owned(), |letter| letter.to_string())
    }
}

/// A cell that holds its figure as it is in JSON.
fn cell(value: f64) -> String {
    let exact = if value.is_finite() { value.to_string() } else { String::new() };
    format!("<td data-value=\"{exact}\">{}</td>", number(value))
}

fn table(out: &mut String, heads: &[&str], rows: &str) {
    let heads: String = heads.iter().map(|it| format!("<th>{it}</th>")).collect();
    // Writing to a string can't fail.
    let _ = writeln!(out, "<div class=\"scroll\"><table>\n<tr>{heads}</tr>\n{rows}</table></div>");
}

pub(super) fn head(out: &mut String, it: &Report<'_>) {
    let _ = writeln!(out, "<h1>{}</h1>\n<p>{}</p>", escape(it.scenario), escape(&it.about));
    let _ = writeln!(out, "<p class=\"quiet\">{}, {}</p>", it.machine.date, escape(&it.machine.processor));
    for failure in &it.failures {
        let _ = writeln!(out, "<p class=\"bad\">Failed: {}</p>", escape(failure));
    }
    for caveat in &it.caveats {
        let _ = writeln!(out, "<p class=\"note\">But: {}</p>", escape(caveat));
    }
    if it.failures.is_empty() {
        let good = match (is_published(it), is_by_policy(it)) {
            (false, _) => "Nothing failed.",
            (true, false) => "Everything arrived, once and in order.",
            (true, true) => {
                "Nothing was lost that was promised: slow consumers were served by their namespace's policy."
            }
        };
        let _ = writeln!(out, "<p class=\"good\">{good}</p>");
    }
    if it.sides.len() > 1 {
        keys(out, it.sides.iter().map(Side::title));
    }
}

/// Whether a policy for slow consumers left something out or ended somebody.
fn is_by_policy(it: &Report<'_>) -> bool {
    let has_dropped = |run: &RunResult| {
        let counted = |name| run.totals.get(name).copied().unwrap_or_default();
        run.audit.replaced > 0
            || run.closed > 0
            || counted("dropped") + counted("conflated") + counted("slow_disconnects") > 0
    };
    it.sides.iter().flat_map(|side| side.runs).any(has_dropped)
}

fn is_published(it: &Report<'_>) -> bool {
    it.sides.iter().flat_map(|side| side.runs).any(|run| run.published > 0)
}

/// Names of lines behind a piece of each.
fn keys(out: &mut String, names: impl Iterator<Item = String>) {
    out.push_str("<ul class=\"servers\">\n");
    for (number, name) in names.enumerate() {
        let _ = writeln!(
            out,
            "<li><svg viewBox=\"0 0 30 14\" aria-hidden=\"true\"><path class=\"line c{}\" d=\"M1 7H29\"/></svg>{}</li>",
            number % COLOURS,
            escape(&name)
        );
    }
    out.push_str("</ul>\n");
}

pub(super) fn figures(out: &mut String, it: &Report<'_>) {
    out.push_str("<h2>Figures</h2>\n");
    let titles: Vec<String> = it.sides.iter().map(|side| escape(&side.short())).collect();
    let heads: Vec<&str> = std::iter::once("").chain(titles.iter().map(String::as_str)).collect();
    let mut rows = String::new();
    for (name, key, of) in FIGURES {
        let values: Vec<f64> = it.sides.iter().map(|side| middle(side.runs, of)).collect();
        if values.iter().any(|it| it.is_finite()) {
            let cells: String = values.into_iter().map(cell).collect();
            let _ = writeln!(rows, "<tr data-figure=\"{key}\"><td>{name}</td>{cells}</tr>");
        }
    }
    table(out, &heads, &rows);
}

pub(super) fn ratios(out: &mut String, it: &Report<'_>) {
    let all = || it.sides.iter().flat_map(|side| side.ratios);
    let farthest = all().flat_map(|it| [it.low, it.high]).filter(|it| it.is_finite() && *it > 0.0);
    let reach = farthest.map(|it| it.ln().abs()).fold(0.1, f64::max).min(10f64.ln());
    let mut rows = String::new();
    let names: Vec<&str> = it.sides.iter().rev().take(1).flat_map(|it| it.ratios).map(|it| it.what).collect();
    for what in names {
        let here = it.sides.iter().enumerate();
        let here = here.filter_map(|(number, side)| {
            Some((number, side, side.ratios.iter().find(|it| it.what == what)?))
        });
        let here: Vec<_> = here.collect();
        for (index, (number, side, ratio)) in here.iter().enumerate() {
            // A line below the last row of a figure only.
            let class = if index + 1 < here.len() { " class=\"outer\"" } else { "" };
            let name = if index == 0 { what } else { "" };
            let place = |value: f64| 100.0 + (value.max(1e-9).ln() / reach).clamp(-1.0, 1.0) * 94.0;
            let [low, middle, high] = [ratio.low, ratio.median, ratio.high].map(place);
            let _ = writeln!(
                rows,
                "<tr{class}><td class=\"name\">{name}</td><td>{}</td><td data-value=\"{}\">{:.2}</td><td>{:.2} to {:.2}</td>\
                 <td class=\"whisker c{}\"><svg viewBox=\"0 0 200 26\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
                 <path class=\"one\" d=\"M100 0V26\"/><path d=\"M{low:.1} 13H{high:.1}M{low:.1} 8V18M{high:.1} 8V18M{middle:.1} 4V22\"/></svg></td></tr>",
                format_args!("A/{}", side.short()),
                ratio.median,
                ratio.median,
                ratio.low,
                ratio.high,
                number % COLOURS
            );
        }
    }
    if rows.is_empty() {
        return;
    }
    let certainty = all().map(|it| it.certainty).fold(1.0, f64::min) * 100.0;
    out.push_str("<h2>The first against each of the others</h2>\n");
    let _ = writeln!(
        out,
        "<p class=\"quiet\">Ratios round by round: the median and the interval that holds it with {certainty:.0}% certainty. \
         The dashed line is 1, left of it the first has less; the scale is logarithmic and the same in all rows.</p>"
    );
    table(out, &["", "", "ratio", "interval", ""], &rows);
}

/// Of a side's rounds, at each percentile.
fn curve(side: &Side<'_>) -> Series {
    let length = side.runs.iter().map(|it| it.latency_curve.len()).min().unwrap_or(0);
    let (low, high, _) = interval(side.runs.len().max(1));
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for index in 0..length {
        let mut values: Vec<f64> = side.runs.iter().map(|it| it.latency_curve[index].1).collect();
        values.sort_by(f64::total_cmp);
        let x = rarity(side.runs[0].latency_curve[index].0);
        points.push((x, median(&values)));
        if values.len() > 1 {
            band.push((x, values[low], values[high]));
        }
    }
    Series { name: side.title(), points, band, dots: Dots::Hidden }
}

fn latency_chart(it: &Report<'_>) -> Option<Chart> {
    let series: Vec<Series> = it.sides.iter().map(curve).collect();
    let ys = || {
        let bands = series.iter().flat_map(|it| it.band.iter().flat_map(|it| [it.1, it.2]));
        series.iter().flat_map(|it| it.points.iter().map(|it| it.1)).chain(bands)
    };
    let (least, most) = (ys().fold(f64::MAX, f64::min), ys().fold(0.0, f64::max));
    let nines = series.iter().filter_map(|it| it.points.last()).map(|it| it.0).fold(0.0, f64::max);
    (most > 0.0).then(|| Chart {
        title: format!("{}: latency by percentile", it.scenario),
        x: Axis::percentiles("of the deliveries, at most", 100.0 * (1.0 - 10f64.powf(-nines))),
        y: Axis::powers("latency", least, most, |us| match us {
            us if us >= 1e6 => format!("{:.0} s", us / 1e6),
            us if us >= 1e3 => format!("{:.0} ms", us / 1e3),
            us => format!("{us} µs"),
        }),
        series,
    })
}

fn memory_chart(it: &Report<'_>) -> Option<Chart> {
    let memory = it.sides.iter().find_map(|it| it.runs.last()?.memory.as_ref())?;
    let line = |name: String, of: &dyn Fn(usize) -> f64| {
        let points = memory.points.iter().enumerate();
        let points = points.map(|(index, it)| (it.connections as f64, of(index) / 1024.0)).collect();
        Series { name, points, band: Vec::new(), dots: Dots::Shown }
    };
    let (user, kernel) = (memory.user.slope, memory.kernel.slope);
    let series = vec![
        line(format!("user space: {user:.2} KiB per connection"), &|at| memory.points[at].user_kib),
        line(format!("kernel, the server's side: {kernel:.2} KiB per connection"), &|at| {
            memory.points[at].kernel_kib
        }),
    ];
    let highest = series.iter().flat_map(|it| &it.points);
    let (most_x, most_y) = highest.fold((0.0f64, 0.0f64), |most, it| (most.0.max(it.0), most.1.max(it.1)));
    Some(Chart {
        title: format!("{}: memory of idle connections", it.scenario),
        x: Axis::linear("connections", most_x, grouped),
        y: Axis::linear("MiB", most_y, number),
        series,
    })
}

/// What there is to draw.
pub(super) fn chart(it: &Report<'_>) -> Option<Chart> {
    memory_chart(it).or_else(|| latency_chart(it))
}

pub(super) fn curves(out: &mut String, it: &Report<'_>) {
    let Some(chart) = latency_chart(it) else { return };
    out.push_str(
        "<h2>Latency</h2>\n<p class=\"quiet\">From when a message was due to be sent to when it was read. ",
    );
    if it.sides.iter().any(|it| it.runs.len() > 1) {
        out.push_str("Lines are medians of the rounds, shades their intervals.");
    }
    let _ = writeln!(out, "</p>\n<div class=\"panel\">{}</div>", chart.svg());
}

pub(super) fn processor(out: &mut String, it: &Report<'_>) {
    let kinds: [Figure; 2] = [
        ("process", "", |it| it.process_us_per_delivery().unwrap_or(f64::NAN)),
        ("whole core", " class=\"shade\"", |it| it.core_us_per_delivery().unwrap_or(f64::NAN)),
    ];
    let values = it.sides.iter().enumerate().flat_map(|(number, side)| {
        kinds.map(|(kind, shade, of)| (number, side.short(), kind, shade, middle(side.runs, of)))
    });
    let values: Vec<_> = values.filter(|it| it.4.is_finite()).collect();
    let most = values.iter().map(|it| it.4).fold(0.0, f64::max);
    if most == 0.0 {
        return;
    }
    let mut rows = String::new();
    for (number, name, kind, shade, value) in &values {
        let _ = writeln!(
            rows,
            "<tr><td class=\"name\">{}</td><td>{kind}</td>{}<td class=\"bar c{}\"><div{shade} style=\"width:{:.1}%\"></div></td></tr>",
            escape(name),
            cell(*value),
            number % COLOURS,
            value / most * 100.0
        );
    }
    out.push_str(
        "<h2>Processor</h2>\n<p class=\"quiet\">Microseconds of the server's cores per delivery: of the process alone, and of \
         the whole core with interrupts and kernel threads.</p>\n",
    );
    table(out, &["", "", "µs", ""], &rows);
}

pub(super) fn memory(out: &mut String, it: &Report<'_>) {
    let (Some(chart), Some(memory)) =
        (memory_chart(it), it.sides.iter().find_map(|it| it.runs.last()?.memory.as_ref()))
    else {
        return;
    };
    out.push_str("<h2>Memory</h2>\n");
    keys(out, chart.series.iter().map(|it| it.name.clone()));
    let _ = writeln!(out, "<div class=\"panel\">{}</div>", chart.svg());
    let mut rows = String::new();
    for point in &memory.points {
        let cells: String =
            [point.connections as f64, point.answered as f64, point.user_kib, point.kernel_kib]
                .map(cell)
                .concat();
        let _ = writeln!(rows, "<tr>{cells}{}</tr>", cell(point.both_ends.sum()));
    }
    let heads = ["connections", "answered a ping", "user KiB", "kernel KiB", "kernel, both ends"];
    table(out, &heads, &rows);
    let (user, kernel) = memory.million_gib();
    let shards: Vec<String> = memory.shards.iter().map(|it| grouped(*it as f64)).collect();
    let _ = writeln!(
        out,
        "<p>1,000,000 connections by these lines: {user:.2} GiB in user space and {kernel:.2} GiB in the kernel.</p>\n\
         <p class=\"quiet\">{}Connections of each shard: {}. The kernel's figure is the server's side: half of what a \
         connection between two programs takes that only hold sockets, {:.2} KiB, is taken off for the other end.</p>",
        memory
            .descriptors_max
            .map_or(String::new(), |it| format!("Descriptor limit: {}. ", grouped(it as f64))),
        shards.join(", "),
        memory.pair_kib / 2.0
    );
}

pub(super) fn parts(out: &mut String, it: &Report<'_>) {
    let mut rows = String::new();
    for part in it.sides.iter().flat_map(|side| side.runs).flat_map(|run| &run.parts) {
        let cells: String =
            [part.rate, part.p50_us, part.p95_us, part.p99_us, part.deliveries_per_second].map(cell).concat();
        let _ = writeln!(rows, "<tr>{cells}<td class=\"name\">{}</td></tr>", escape(&part.note));
    }
    if !rows.is_empty() {
        out.push_str("<h2>Its runs</h2>\n");
        table(out, &["publishes/s", "p50 µs", "p95 µs", "p99 µs", "deliveries/s", ""], &rows);
    }
}

pub(super) fn audit(out: &mut String, it: &Report<'_>) {
    if !is_published(it) {
        return;
    }
    let mut rows = String::new();
    for side in &it.sides {
        let sum = |of: fn(&RunResult) -> u64| cell(side.runs.iter().map(of).sum::<u64>() as f64);
        let cells = [
            sum(|it| it.published),
            sum(|it| it.audit.delivered),
            sum(|it| it.audit.lost),
            sum(|it| it.audit.repeated),
            sum(|it| it.audit.misdelivered),
            sum(|it| it.audit.replaced),
            sum(|it| it.errors),
            sum(|it| it.closed as u64),
        ]
        .concat();
        let _ = writeln!(
            rows,
            "<tr data-figure=\"audit\"><td class=\"name\">{}</td>{cells}</tr>",
            escape(&side.short())
        );
    }
    out.push_str(
        "<h2>Audit</h2>\n<p class=\"quiet\">Every subscriber counts its publisher's messages, in every run. Repeated are those out of \
         order too; misdelivered came to somebody who had not subscribed; replaced by later ones are those of channels \
         that may.</p>\n",
    );
    let heads =
        ["", "published", "delivered", "lost", "repeated", "misdelivered", "replaced", "errors", "closed"];
    table(out, &heads, &rows);
}

pub(super) fn hiccups(out: &mut String, it: &Report<'_>) {
    let mut rows = String::new();
    for (when, hiccups) in ["before", "after"].into_iter().zip(it.hiccups) {
        for (core, late_share, worst_us) in hiccups.cores() {
            let percent = late_share * 100.0;
            let _ = writeln!(
                rows,
                "<tr><td>{when}, core {core}</td><td data-value=\"{late_share}\">{percent:.2}%</td>{}\
                 <td class=\"bar c0\"><div style=\"width:{:.1}%\"></div></td></tr>",
                cell(worst_us as f64),
                (percent * 20.0).min(100.0)
            );
        }
    }
    out.push_str(
        "<h2>Hiccups</h2>\n<p class=\"quiet\">What the machine does to a loop that wants nothing: the share of 100 µs windows \
         that were held up over 50 µs (a full bar is 5%), and the longest hold-up. No tail is better than that.</p>\n",
    );
    table(out, &["", "held up", "worst µs", ""], &rows);
}

pub(super) fn machine(out: &mut String, it: &Machine) {
    let limit = it.descriptors_max.map_or("unknown".to_owned(), |it| grouped(it as f64));
    let rows = [
        ("Command", format!("<code>{}</code>", escape(&it.command))),
        ("Date", it.date.clone()),
        ("Kernel", escape(&it.kernel)),
        ("Processor", format!("{}, {} cores", escape(&it.processor), it.cores)),
        ("Memory", format!("{} MiB", grouped(it.memory_mib as f64))),
        ("Descriptors per process", limit),
        ("Load of the last minute", format!("{:.2}, the run's own included", it.load)),
        ("corecast-bench", it.version.to_owned()),
    ];
    out.push_str("<h2>Machine</h2>\n<dl>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{value}</dd>");
    }
    out.push_str("</dl>\n");
}
