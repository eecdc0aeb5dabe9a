//! Configuration files: settings, or problems that each say where and what would be right.

use corecast_server::config::{ConfigFile, Problem, Settings, Sources, names};

const NAME: &str = "c.toml";

/// Everything that must hold for a file of these bytes.
pub fn check(bytes: &[u8]) {
    let Err(problems) = load(bytes, Vec::new()) else {
        // A flag wins over the file, and what was right stays right beside it.
        let flags = vec![("--listen".to_owned(), "listen".to_owned(), "nowhere".to_owned())];
        let problems = load(bytes, flags).expect_err("a flag that is wrong");
        assert!(
            problems.iter().any(|it| it.place == "--listen" && it.what.contains("`listen`")),
            "{problems:?}"
        );
        return;
    };
    assert!(!problems.is_empty(), "refused without a reason");
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    for problem in &problems {
        assert!(is_placed(problem, lines), "{problem:?}");
        assert!(!problem.what.trim().is_empty() && !problem.what.contains(['\n', '\r']), "{problem:?}");
    }
    assert_eq!(load(bytes, Vec::new()).expect_err("it was refused before"), problems, "not the same twice");
}

fn load(bytes: &[u8], flags: Vec<(String, String, String)>) -> Result<Settings, Vec<Problem>> {
    let file = ConfigFile { name: NAME.to_owned(), contents: Ok(bytes.to_vec()) };
    Settings::load(&Sources { file: Some(file), environment: Vec::new(), flags })
}

/// It names a line of the file; or, where several values are wrong together, a key.
fn is_placed(problem: &Problem, lines: usize) -> bool {
    let line = problem.place.strip_prefix(NAME).and_then(|rest| rest.strip_prefix(':'));
    match line {
        Some(line) => line.parse().is_ok_and(|line: usize| (1..=lines).contains(&line)),
        None => names().any(|name| problem.what.contains(&format!("`{name}`"))),
    }
}
