//! A report as one page that needs nothing else: HTML with its style and its charts inline, no scripts.
//!
//! It is also well-formed XML, which is what its tests read. What it shows is in the JSON too: `data-value` holds a figure
//! as it is there, before it was rounded.

mod chart;
mod sections;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::compare::{Comparison, Ratio};
use crate::hiccup::Hiccups;
use crate::machine::Machine;
use crate::report::{Measured, RunResult};

/// Colours and lines of charts.
const CHART_STYLE: &str = include_str!("page/style.css");
const PAGE_STYLE: &str = include_str!("page/page.css");

/// One server's part of a report.
struct Side<'a> {
    /// Of a comparison.
    letter: Option<char>,
    server: &'a str,
    runs: &'a [RunResult],
    ratios: &'a [Ratio],
}

/// What a page tells.
struct Report<'a> {
    scenario: &'a str,
    about: String,
    failures: Vec<&'a str>,
    caveats: Vec<&'a str>,
    sides: Vec<Side<'a>>,
    hiccups: [&'a Hiccups; 2],
    machine: &'a Machine,
}

/// Where the user wants pictures of a result.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub(crate) struct Pictures {
    /// Write the result as one HTML page that needs nothing else
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write its chart as an SVG file
    #[arg(long)]
    svg: Option<PathBuf>,
}

impl Pictures {
    /// Of one run.
    pub(crate) fn of_run(&self, it: &Measured) -> Result<()> {
        let result = &it.result;
        let side =
            Side { letter: None, server: &result.server, runs: std::slice::from_ref(result), ratios: &[] };
        self.write(&Report {
            scenario: &result.scenario,
            about: format!("One run of {}, {} connections.", result.server, result.connections),
            failures: result.failures.iter().map(String::as_str).collect(),
            caveats: result.client_bound.iter().map(String::as_str).collect(),
            sides: vec![side],
            hiccups: [&it.hiccups_before, &it.hiccups_after],
            machine: &it.machine,
        })
    }

    /// Of a comparison.
    pub(crate) fn of_comparison(&self, it: &Comparison) -> Result<()> {
        self.write(&Report::of_comparison(it))
    }

    /// A comparison's page, wherever it may be wanted.
    pub(crate) fn page_of(it: &Comparison) -> String {
        page(&Report::of_comparison(it))
    }

    fn write(&self, report: &Report<'_>) -> Result<()> {
        let put = |path: &Path, text: String| {
            std::fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
        };
        if let Some(path) = &self.html {
            put(path, page(report))?;
        }
        if let Some(path) = &self.svg {
            let chart = sections::chart(report).context("this scenario has nothing to draw")?;
            put(path, chart.file(CHART_STYLE))?;
        }
        Ok(())
    }
}

impl<'a> Report<'a> {
    fn of_comparison(it: &'a Comparison) -> Self {
        let sides = it.contenders.iter().map(|it| Side {
            letter: Some(it.letter),
            server: &it.server,
            runs: &it.runs,
            ratios: &it.ratios,
        });
        let rounds = it.rounds;
        Self {
            scenario: it.scenario,
            about: format!(
                "{} servers in {rounds} interleaved rounds; medians of the rounds.",
                it.contenders.len()
            ),
            failures: it.failures.iter().map(String::as_str).collect(),
            caveats: it.caveats.iter().map(String::as_str).collect(),
            sides: sides.collect(),
            hiccups: [&it.hiccups_before, &it.hiccups_after],
            machine: &it.machine,
        }
    }
}

fn page(report: &Report<'_>) -> String {
    let mut body = String::new();
    sections::head(&mut body, report);
    sections::curves(&mut body, report);
    sections::memory(&mut body, report);
    sections::figures(&mut body, report);
    sections::ratios(&mut body, report);
    sections::processor(&mut body, report);
    sections::parts(&mut body, report);
    sections::audit(&mut body, report);
    sections::hiccups(&mut body, report);
    sections::machine(&mut body, report.machine);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{} - corecast-bench</title>\n<style>\n{CHART_STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(report.scenario)
    )
}

/// As text in HTML and XML, in attributes too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // What XML does not allow, whatever a server wrote.
            it if it.is_control() && it != '\n' && it != '\t' => escaped.push('\u{fffd}'),
            it => escaped.push(it),
        }
    }
    escaped
}

/// Four digits, or all before the point, with commas.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let digits = if value == 0.0 { 0 } else { (value.abs().log10().floor() as i32 + 1).max(1) };
    if value.fract() == 0.0 || digits >= 4 {
        return grouped(value);
    }
    format!("{value:.*}", (3 - digits.min(3)).max(1) as usize)
}

/// A whole number with commas.
fn grouped(value: f64) -> String {
    let plain = format!("{:.0}", value.abs());
    let mut text = String::from(if value <= -0.5 { "-" } else { "" });
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.02, 0.123, 1.0, 6.054, 84.27, 154.44, 1540.9, 2_000_100.0, -12_000.4, f64::NAN];
        let shown = ["0", "0.02", "0.12", "1", "6.05", "84.3", "154.4", "1,541", "2,000,100", "-12,000", "-"];
        assert_eq!(texts.map(number), shown);
    }

    #[test]
    fn nothing_breaks_out_of_the_page() {
        assert_eq!(escape("<a b=\"c\">&\u{1b}"), "&lt;a b=&quot;c&quot;&gt;&amp;\u{fffd}");
    }
}
