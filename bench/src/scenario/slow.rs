//! Members that never read: each policy of the hub is made to act, and the others lose nothing by it.

use anyhow::{Result, bail};

use super::Scenario;
use crate::report::RunResult;
use crate::server::is_corecast;

/// A namespace's policy: its channels' prefix, and the counter that moves when it acts.
const POLICIES: [(&str, &str, &str); 3] = [
    ("disconnect", "conversation:", "slow_disconnects"),
    ("drop_oldest", "", "dropped"),
    ("conflate", "metrics:", "conflated"),
];

/// So little room that a member who does not read is slow at once.
const SETTINGS: &str = "--set socket.send_buffer_bytes=4096 --set limits.message_bytes=65536 \
                        --set limits.outbox_messages=50 --set limits.outbox_bytes=1048576";

impl Scenario {
    /// One run per policy; each has to act on the one member that does not read, and on nobody else.
    pub(super) fn run_slow(&self, what: &str) -> Result<RunResult> {
        if !is_corecast(what) {
            bail!("slow-consumer is about corecast's policies: it runs with no other server");
        }
        let mut parts = Vec::new();
        for (policy, namespace, counter) in POLICIES {
            let run = Self { namespace, ..self.clone() };
            let mut part = run.run_load(&format!("{what} {SETTINGS}"))?;
            what.clone_into(&mut part.server);
            let count = part.totals.get(counter).copied().unwrap_or(0);
            part.note = format!("{policy}: 1 of {} never reads, {counter} {count}", part.connections);
            if counter == "conflated" {
                // Who is behind for a moment gets the latest only, as it should be.
                part.audit.allow_replaced(count);
                part.note.push_str(&format!(", {} of them with others", part.audit.replaced));
            }
            if count == 0 {
                part.failures.push(format!("{policy} did not act: {counter} is 0"));
            }
            parts.push(part);
        }
        Ok(RunResult::worst_of(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_failed_is_not_hidden_by_one_that_was_slower() {
        let mut failed = RunResult { p99_us: 1.0, ..RunResult::default() };
        failed.failures.push("nobody was slow".to_owned());
        failed.audit.lost = 2;
        let slower = RunResult { p99_us: 9.0, ..RunResult::default() };
        let all = RunResult::worst_of(vec![failed, slower]);
        assert_eq!((all.p99_us, all.audit.lost, all.failures.len(), all.parts.len()), (9.0, 2, 1, 2));
        assert!(!all.is_clean());
    }
}
