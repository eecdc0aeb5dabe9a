//! Configurations as the real binary judges them.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The binary without anything of the developer's environment.
pub(crate) fn corecast(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corecast"));
    command.env_clear().args(args);
    command
}

/// Exit code, standard output, lines of standard error.
pub(crate) fn run(command: &mut Command) -> (i32, String, Vec<String>) {
    let Output { status, stdout, stderr } = command.output().expect("the binary can be started");
    let code = status.code().unwrap_or_else(|| panic!("it was killed: {status}"));
    let lines = String::from_utf8_lossy(&stderr).lines().map(str::to_owned).collect();
    (code, String::from_utf8_lossy(&stdout).into_owned(), lines)
}

/// What `check-config` says is wrong; it is the same for `serve`, which does not start.
#[track_caller]
pub(crate) fn problems(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let [checked, served] = ["check-config", "serve"].map(|command| {
        let (code, out, lines) = run(corecast(&[command]).args(args).envs(env.iter().copied()));
        assert_eq!((code, out.as_str()), (2, ""), "{command} {args:?}: {lines:#?}");
        lines
    });
    assert_eq!(checked, served);
    checked
}

/// What `check-config` says of a valid configuration.
#[track_caller]
pub(crate) fn valid(args: &[&str], env: &[(&str, &str)]) -> String {
    let (code, out, lines) = run(corecast(&["check-config"]).args(args).envs(env.iter().copied()));
    assert_eq!((code, lines.as_slice()), (0, [].as_slice()), "{args:?}");
    out
}

/// A configuration file, removed when dropped.
pub(crate) struct File(PathBuf);

impl File {
    /// `name` is used by one test only.
    pub(crate) fn new(name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.toml", std::process::id()));
        std::fs::write(&path, contents).expect("the target folder can be written to");
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("the path is UTF-8")
    }

    /// Fails unless the only problems are these, each in the file at this line.
    #[track_caller]
    pub(crate) fn assert_problems(&self, wanted: &[(u32, &str)]) {
        let got = problems(&["--config", self.path()], &[]);
        let mut wanted: Vec<String> =
            wanted.iter().map(|(line, what)| format!("corecast: {}:{line}: {what}", self.path())).collect();
        wanted.sort();
        let mut sorted = got.clone();
        sorted.sort();
        let fits =
            got.len() == wanted.len() && sorted.iter().zip(&wanted).all(|(got, it)| got.starts_with(it));
        assert!(fits, "got {sorted:#?}\nwanted {wanted:#?}");
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // What is left of it lies in the target folder.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[track_caller]
pub(crate) fn assert_contains(lines: &[String], text: &str) {
    assert!(lines.iter().any(|line| line.contains(text)), "no {text:?} in {lines:#?}");
}
