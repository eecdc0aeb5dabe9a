//! The report as a page: one well-formed file that needs nothing else, with the figures of the JSON.

use std::path::PathBuf;
use std::process::Command;

use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;

/// Runs the bench with a page, a chart and JSON; returns their texts.
fn report(name: &str, words: &[&str]) -> (String, String, Value) {
    let path = |ending: &str| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{ending}"));
    let output = Command::new(env!("CARGO_BIN_EXE_corecast-bench"))
        .args(words)
        .args([
            &"--html".into(),
            &path("html"),
            &"--svg".into(),
            &path("svg"),
            &"--json".into(),
            &path("json"),
        ])
        .output()
        .expect("the bench starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |ending: &str| std::fs::read_to_string(path(ending)).expect("it was written");
    (read("html"), read("svg"), serde_json::from_str(&read("json")).expect("JSON"))
}

/// Well-formed, and nothing in it that a browser would fetch or run.
fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let page = Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error}: {text}"));
    let allowed = "xmlns=\"http://www.w3.org/2000/svg\"";
    for outside in ["http:", "https:", "//", "@import", "url(", "src=", "<script", "<link", "<iframe", " on"]
    {
        let rest = text.replace(allowed, "");
        // Words of the text may begin with what an event handler's name does.
        let found = if outside == " on" { rest.contains(" onload=") } else { rest.contains(outside) };
        assert!(!found, "{outside} in {text}");
    }
    page
}

fn by_class<'a>(page: &'a Document<'a>, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    page.descendants().filter(move |it| it.attribute("class") == Some(class))
}

/// The figures of a row, as they were before they were rounded.
fn row(page: &Document<'_>, figure: &str) -> Vec<Vec<f64>> {
    let rows = page.descendants().filter(|it| it.attribute("data-figure") == Some(figure));
    rows.map(|row| {
        let cells = row.children().filter_map(|it| it.attribute("data-value"));
        cells.map(|it| it.parse().expect("a number")).collect()
    })
    .collect()
}

/// Whether some cell holds it. Parsing JSON may be off in the last bit.
fn has(page: &Document<'_>, value: f64) -> bool {
    let values = page.descendants().filter_map(|it| it.attribute("data-value")?.parse::<f64>().ok());
    values.into_iter().any(|it| (it - value).abs() <= value.abs() * 1e-12)
}

fn texts(page: &Document<'_>) -> String {
    page.descendants().filter_map(|it| it.text()).collect::<Vec<_>>().join(" ")
}

const TINY: [&str; 6] = ["--connections", "20", "--rate", "200", "--seconds", "0.3"];

#[test]
fn a_runs_page_has_its_figures() {
    let (html, svg, json) =
        report("run", &[["run", "rooms-1k", "--server", "floor"].as_slice(), &TINY].concat());
    let page = parse(&html);
    let result = &json["result"];
    for figure in
        ["p50_us", "p95_us", "p99_us", "p999_us", "max_us", "deliveries_per_second", "bytes_per_delivery"]
    {
        let (shown, exact) = (row(&page, figure), result[figure].as_f64().expect("a figure"));
        assert_eq!((shown.len(), shown[0].len()), (1, 1), "{figure}");
        assert!((shown[0][0] - exact).abs() <= exact * 1e-12, "{figure}: {} and {exact}", shown[0][0]);
    }
    let audit = &result["audit"];
    let of = |it: &Value| it.as_u64().expect("a count") as f64;
    let [published, delivered, lost, repeated] =
        [&result["published"], &audit["delivered"], &audit["lost"], &audit["repeated"]].map(of);
    assert_eq!(row(&page, "audit")[0][..4], [published, delivered, lost, repeated]);
    let curve = result["latency_curve"].as_array().expect("a curve").len();
    assert!(curve > 20, "some hundred deliveries have two nines, of ten points each: {curve}");
    let line = by_class(&page, "line c0").next().and_then(|it| it.attribute("d")).expect("a line");
    assert_eq!(line.matches(['M', 'L']).count(), curve);
    let text = texts(&page);
    for machine in ["kernel", "processor", "date", "command"] {
        assert!(text.contains(json["machine"][machine].as_str().expect("it is told")), "{machine} in {text}");
    }
    for hiccup in json["hiccups_before"].as_array().expect("every core") {
        assert!(has(&page, hiccup["late_share"].as_f64().expect("a share")), "{hiccup}");
    }
    parse(&svg);
}

#[test]
fn a_comparisons_page_has_every_server() {
    let servers = ["compare", "rooms-1k", "--a", "floor", "--b", "raw", "--c", "floor", "--pairs", "3"];
    let (html, svg, json) = report("comparison", &[servers.as_slice(), &TINY].concat());
    let page = parse(&html);
    assert_eq!(row(&page, "p50_us")[0].len(), 3);
    assert_eq!(row(&page, "audit").len(), 3);
    let ratios: Vec<f64> = json["contenders"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|it| it["ratios"].as_array().expect("a list"))
        .map(|it| it["median"].as_f64().expect("a ratio"))
        .collect();
    assert!(ratios.len() >= 12, "{ratios:?}");
    for ratio in ratios {
        assert!(has(&page, ratio), "{ratio}");
    }
    for class in ["line c0", "line c1", "line c2", "band c0", "band c1", "band c2"] {
        assert!(by_class(&page, class).next().is_some(), "{class}");
        assert!(by_class(&parse(&svg), class).next().is_some(), "{class} alone");
    }
}

#[test]
fn memory_has_a_chart_of_its_own() {
    let words = ["run", "idle-20k", "--server", "floor", "--connections", "200"];
    let (html, svg, json) = report("memory", &words);
    let page = parse(&html);
    let points = json["result"]["memory"]["points"].as_array().expect("steps");
    let connections: Vec<u64> = points.iter().filter_map(|it| it["connections"].as_u64()).collect();
    assert_eq!(connections, [50, 100, 150, 200].map(|it: u64| it.max(100)));
    assert!(points.iter().all(|it| it["answered"] == it["connections"]), "{points:?}");
    assert_eq!(by_class(&page, "dot c0").count(), points.len());
    assert_eq!(by_class(&parse(&svg), "dot c1").count(), points.len());
    for point in points {
        let user = point["user_kib"].as_f64().expect("KiB");
        assert!(has(&page, user), "{user}");
    }
}
