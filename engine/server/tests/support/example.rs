//! Programs that tests need and that only the driver's package may hold, for they have `unsafe` code: its examples.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The path of an example. Cargo has built it already where the whole workspace is tested, and says where.
pub(crate) fn example(name: &str) -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target folder");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "corecast-driver", "--example", name])
        .args(["--message-format", "json", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "the example can be built");
    let lines = String::from_utf8(output.stdout).expect("cargo prints JSON");
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut paths = artifacts.filter_map(|it| it["executable"].as_str().map(str::to_owned));
    paths.next().expect("cargo says where the example is")
}
