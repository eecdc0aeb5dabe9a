//! One thread of a server held up while the others go on.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::server::Server;

/// A thread that stands still until this is dropped.
pub(crate) struct Held {
    tracer: Child,
    /// Its end lets the thread go on.
    until: Option<ChildStdin>,
}

impl Server {
    /// Holds up the thread of a shard by `hold_thread`.
    ///
    /// # Errors
    /// What the kernel has against it.
    pub(crate) fn hold_shard(&self, hold_thread: &str, shard: usize) -> Result<Held, String> {
        let thread = self.thread(&format!("shard-{shard}"));
        let mut command = Command::new(hold_thread);
        command.arg(thread.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tracer = command.spawn().expect("it was built");
        let until = tracer.stdin.take();
        let mut line = String::new();
        let stdout = tracer.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("UTF-8");
        if line == "held\n" {
            return Ok(Held { tracer, until });
        }
        let output = tracer.wait_with_output().expect("it is our child");
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The id of the thread of this name.
    #[track_caller]
    fn thread(&self, name: &str) -> u32 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        for task in tasks.flatten() {
            // A thread may end meanwhile.
            let is_it = std::fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it.trim() == name);
            if let Some(id) = task.file_name().to_str().filter(|_| is_it) {
                return id.parse().expect("a number");
            }
        }
        panic!("there is no thread {name}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.until.take());
        let _ = self.tracer.wait();
    }
}
