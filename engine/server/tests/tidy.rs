//! The structure of the repository, kept by machine: what every file opens with, how large files and functions are,
//! where `unsafe` may stand, what needs an explanation.
//!
//! Exceptions are written down here, each with its reason.

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Longer than a screen, and why: file, function, reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[(
    "engine/hub/tests/commands.rs",
    "every_error_names_its_request_and_what_would_be_right",
    "a table of cases, read from top to bottom",
)];

/// Where nothing may wait for the clock.
const SLEEPLESS: &[&str] = &["protocol/", "engine/hub/", "engine/shard/"];

struct Source {
    /// From the root of the repository, with slashes.
    name: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in ["protocol", "engine", "bench", "fuzz"] {
        collect(&root().join(folder), &mut sources);
    }
    assert!(sources.len() > 100, "the sources are found: {}", sources.len());
    sources
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            sources.push(Source { name, text: std::fs::read_to_string(&path).expect("a source is text") });
        }
    }
}

fn no_explanation(source: &Source) -> Vec<String> {
    let has_header = source.text.starts_with("//!");
    if has_header { Vec::new() } else { vec![format!("{}: begins without //!", source.name)] }
}

fn too_long(source: &Source) -> Vec<String> {
    let count = source.text.lines().count();
    if count <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {count} lines, at most {FILE_LINES_MAX}", source.name)]
}

/// A function ends where a brace stands as far left as its first line; rustfmt sees to that.
fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut problems = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let is_end = |line: &&str| line.trim_end().len() == indent + 1 && line.ends_with('}');
        // A declaration without a body ends with a semicolon before any brace opens.
        let opens = lines[at..].iter().position(|line| line.trim_end().ends_with(['{', ';', '}']));
        if opens.is_none_or(|opens| !lines[at + opens].trim_end().ends_with('{')) {
            continue;
        }
        let count = lines[at..].iter().position(is_end).map_or(0, |end| end + 1);
        let is_excused = LONG_FUNCTIONS.iter().any(|(file, long, _)| *file == source.name && *long == name);
        if count > FUNCTION_LINES_MAX && !is_excused {
            problems.push(format!("{}: {name} has {count} lines, at most {FUNCTION_LINES_MAX}", source.name));
        }
    }
    problems
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

fn misplaced_unsafe(source: &Source) -> Vec<String> {
    if source.name.starts_with("engine/driver/") {
        return Vec::new();
    }
    let is_code = |line: &&str| {
        let line = line.trim_start();
        let code = line.split("//").next().unwrap_or_default();
        let before_quote = code.split('"').next().unwrap_or_default();
        ["unsafe ", "unsafe{"].iter().any(|word| before_quote.contains(word))
    };
    let found = source.text.lines().filter(is_code);
    found.map(|line| format!("{}: {}", source.name, line.trim())).collect()
}

fn unexplained(source: &Source) -> Vec<String> {
    // Written apart, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let is_bare = |line: &&str| {
        marks.iter().any(|mark| line.split(mark).nth(1).is_some_and(|why| why.trim().len() < 20))
    };
    let found = source.text.lines().filter(is_bare);
    found.map(|line| format!("{}: without an explanation: {}", source.name, line.trim())).collect()
}

fn sleeping(source: &Source) -> Vec<String> {
    let is_sleepless = SLEEPLESS.iter().any(|folder| source.name.starts_with(folder));
    if is_sleepless && source.text.contains(concat!("thread::", "sleep")) {
        vec![format!("{}: waits for the clock", source.name)]
    } else {
        Vec::new()
    }
}

/// What is wrong with a source.
type Check = fn(&Source) -> Vec<String>;

const CHECKS: &[(&str, Check)] = &[
    ("every file says what it owns", no_explanation),
    ("no file is too long", too_long),
    ("no function is too long", long_functions),
    ("unsafe stays in the driver", misplaced_unsafe),
    ("what is left to be done is explained", unexplained),
    ("tests of protocol, hub and shard do not sleep", sleeping),
];

#[test]
fn the_repository_is_tidy() {
    let sources = sources();
    let mut problems = Vec::new();
    for (what, check) in CHECKS {
        let found: Vec<String> = sources.iter().flat_map(check).collect();
        if !found.is_empty() {
            problems.push(format!("{what}:\n  {}", found.join("\n  ")));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    for (file, function, _) in LONG_FUNCTIONS {
        let source = sources.iter().find(|it| it.name == *file);
        assert!(
            source.is_some_and(|it| it.text.contains(&format!("fn {function}("))),
            "{file}: {function} is excused and not there"
        );
    }
}

#[test]
fn every_check_can_fail() {
    let long_function = format!("//! x\nfn long() {{\n{}}}\n", "    x();\n".repeat(70));
    let mark = concat!("TO", "DO");
    let canaries = [
        "fn x() {}\n".to_owned(),
        "//! x\n".repeat(601),
        long_function,
        format!("//! x\nfn x() {{ {} {{}} }}\n", "unsafe"),
        format!("//! x\n// {mark}: later\n"),
        format!("//! x\nfn x() {{ {}(d) }}\n", concat!("thread::", "sleep")),
    ];
    for ((what, check), text) in CHECKS.iter().zip(canaries) {
        let bad = Source { name: "protocol/src/x.rs".to_owned(), text };
        assert_eq!(check(&bad).len(), 1, "{what}");
        let good = Source { name: bad.name, text: "//! x\nfn short() {\n    x();\n}\n".to_owned() };
        assert!(check(&good).is_empty(), "{what}");
    }
}
