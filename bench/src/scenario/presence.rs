//! What it costs that somebody comes to a channel of a great many of whom few want to know it: joins one at a time, a
//! crowd at once, and the list of all in pages.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Scenario, client_core, cores};
use crate::client::{Crowd, Gathering, Layout, Told, histogram, participant};
use crate::compare::median;
use crate::cpu;
use crate::figure::Figure;
use crate::progress;
use crate::report::RunResult;
use crate::server::Server;

/// Members that are told who comes and goes.
const WATCHERS: usize = 10;
/// Names of one answer.
const PAGE: usize = 100;
/// All of them are kept, those that join later too.
const SETTINGS: &str = "--set namespaces.conversation.presence_members=100000";
/// Longer than what is told is held back to be told together.
const QUIET: Duration = Duration::from_millis(700);
/// Nobody is told of a join later than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server had sent and worked at some moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: f64,
    messages: u64,
    bytes: u64,
}

/// The crowd and its server.
struct Hall<'a> {
    server: &'a Server,
    crowd: Crowd,
    channel: String,
    watchers: usize,
    /// Seconds of processor time per second, the last time that nothing happened.
    idle_load: f64,
    result: RunResult,
}

/// What some joins or queries cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    cpu: f64,
    messages: u64,
    bytes: u64,
}

impl Scenario {
    pub(super) fn run_presence(&self, what: &str) -> Result<RunResult> {
        let server = Server::start(&format!("{what} {SETTINGS}"), self.placement())?;
        let (lone, together) = ((self.connections / 500).clamp(3, 20), self.connections / 10);
        let clients = self.connections + lone + together;
        let job = Gathering {
            port: server.port,
            clients,
            layout: Layout::Shared(1, 1),
            publishers: 0,
            watchers: WATCHERS.min(self.connections),
            name: format!("{}hall-", self.namespace),
            rate: 0.0,
            size: self.size,
            is_numbered: true,
            core: client_core(self.placement(), 0, cores()),
        };
        let (channel, watchers) = (format!("{}0", job.name), job.watchers);
        let bar = progress::bar(clients, "connecting");
        let begin = Instant::now();
        let crowd = Crowd::open(job, || bar.inc(1))?;
        bar.finish_and_clear();
        let mut result = RunResult::new(self.name, what, clients, 0);
        result.connect_seconds = begin.elapsed().as_secs_f64();
        crowd.settle_down();
        let mut hall = Hall { server: &server, crowd, channel, watchers, idle_load: 0.0, result };
        hall.fill(self.connections)?;
        hall.join_alone(self.connections..self.connections + lone)?;
        hall.join_together(self.connections + lone..clients)?;
        hall.list(clients)?;
        let Hall { crowd, mut result, .. } = hall;
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.totals = server.counters();
        result.check_connected(&server, clients);
        result.tell_crowd(&crowd);
        Ok(result)
    }
}

impl Hall<'_> {
    /// The members that are there from the beginning.
    fn fill(&mut self, members: usize) -> Result<()> {
        let time = self.crowd.subscribe(0, members)?;
        self.quiet()?;
        let before = self.sample();
        self.crowd.go_on(Duration::from_secs(1))?;
        let after = self.sample();
        self.idle_load = (after.cpu - before.cpu) / (after.at - before.at).as_secs_f64();
        self.crowd.told();
        self.figure("members", members as f64, "");
        self.figure("watchers", self.watchers as f64, "");
        self.figure("time for all to join", time.as_secs_f64(), "s");
        Ok(())
    }

    /// One after the other, each when the one before it is known.
    fn join_alone(&mut self, joiners: Range<usize>) -> Result<()> {
        let (mut times, mut heard, mut costs) = (histogram(), Vec::new(), Vec::new());
        for joiner in joiners.clone() {
            let before = self.sample();
            // Until a moment that has nothing to do with when the last one was told; and what the server does anyhow.
            self.crowd.go_on(Duration::from_millis(fastrand::u64(300..600)))?;
            let begin = self.sample();
            self.idle_load = (begin.cpu - before.cpu) / (begin.at - before.at).as_secs_f64();
            self.crowd.subscribe(joiner, joiner + 1)?;
            let told = self.await_join(&participant(joiner))?;
            costs.push(self.cost(begin, self.sample()));
            told.iter().for_each(|it| times.saturating_record((it.at - begin.at).as_nanos() as u64));
            heard.extend(told);
        }
        heard.extend(self.quiet()?);
        self.audit(&heard, joiners);
        // What other work of the server falls into one of them is not the join's.
        let middle = |of: fn(&Cost) -> f64| {
            let mut all: Vec<f64> = costs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            median(&all)
        };
        let cost = Cost {
            cpu: middle(|it| it.cpu),
            messages: middle(|it| it.messages as f64) as u64,
            bytes: middle(|it| it.bytes as f64) as u64,
        };
        self.tell("a join by itself", 1, cost);
        self.result.figures.extend(Figure::percentiles("a join is known after", &times, None));
        self.result.note = format!("a join: {:.0} us of cpu, {} bytes", cost.cpu * 1e6, cost.bytes);
        Ok(())
    }

    /// What watchers were told until all of them know.
    fn await_join(&mut self, who: &str) -> Result<Vec<Told>> {
        let (begin, mut told) = (Instant::now(), Vec::new());
        while told.iter().filter(|it: &&Told| names(&it.value).any(|name| name == who)).count()
            < self.watchers
        {
            if begin.elapsed() > PATIENCE {
                bail!("not everybody who asked was told that {who} joined");
            }
            told.extend(self.crowd.await_told(PATIENCE)?);
        }
        Ok(told)
    }

    /// Everybody is told once of each, and nobody of somebody else.
    fn audit(&mut self, heard: &[Told], joiners: Range<usize>) {
        let expected: BTreeSet<String> = joiners.map(participant).collect();
        for watcher in 0..self.watchers {
            let mut seen = BTreeSet::new();
            for name in heard.iter().filter(|it| it.watcher == watcher).flat_map(|it| names(&it.value)) {
                self.result.audit.delivered += 1;
                self.result.audit.misdelivered += u64::from(!expected.contains(name));
                self.result.audit.repeated += u64::from(!seen.insert(name));
            }
            self.result.audit.lost += expected.iter().filter(|it| !seen.contains(it.as_str())).count() as u64;
        }
    }

    /// All at once: so many that they are counted, not named. The last count is to be right.
    fn join_together(&mut self, joiners: Range<usize>) -> Result<()> {
        let (count, all) = (joiners.len(), joiners.end as u64);
        let before = self.sample();
        let time = self.crowd.subscribe(joiners.start, joiners.end)?;
        let told = self.quiet()?;
        let cost = self.cost(before, self.sample());
        self.tell("a join of many at once", count, cost);
        self.figure("joins at once", count as f64, "");
        self.figure("time for them to join", time.as_secs_f64(), "s");
        for watcher in 0..self.watchers {
            let last = told.iter().rfind(|it| it.watcher == watcher).map(|it| &it.value["count"]);
            if last.and_then(Value::as_u64) != Some(all) {
                let failure = format!("{all} are there, and watcher {watcher} was told of {last:?}");
                self.result.failures.push(failure);
            }
        }
        Ok(())
    }

    /// All names, page by page: in order and each once.
    fn list(&mut self, members: usize) -> Result<()> {
        let (mut times, mut listed) = (histogram(), BTreeSet::new());
        let (mut pages, mut params) = (0, json!({"channel": self.channel, "limit": PAGE}));
        let before = self.sample();
        loop {
            let query = json!({"type": "query", "id": pages, "method": "presence", "params": params});
            let begin = Instant::now();
            self.crowd.say(0, &query.to_string());
            let told = self.crowd.await_told(PATIENCE)?;
            let Some(answer) = told.iter().find(|it| it.value["id"] == pages) else {
                bail!("a presence query was not answered: {:?}", self.crowd.heard().first_error);
            };
            times.saturating_record((answer.at - begin).as_nanos() as u64);
            let result = &answer.value["result"];
            for name in names(result) {
                self.result.audit.delivered += 1;
                let is_later = listed.last().is_none_or(|last: &String| last.as_str() < name);
                self.result.audit.reordered += u64::from(!is_later);
                listed.insert(name.to_owned());
            }
            pages += 1;
            if result["more"] != true {
                break;
            }
            params["after"] = json!(listed.last());
        }
        let cost = self.cost(before, self.sample());
        self.result.audit.lost +=
            (0..members).filter(|it| !listed.contains(&participant(*it))).count() as u64;
        self.tell(&format!("a page of {PAGE} names"), pages, cost);
        self.figure("pages", pages as f64, "");
        self.result.figures.extend(Figure::percentiles("a page is there after", &times, None));
        Ok(())
    }

    /// Until nobody is told anything any more; what was told meanwhile.
    fn quiet(&mut self) -> Result<Vec<Told>> {
        let mut all = Vec::new();
        loop {
            let told = self.crowd.await_told(QUIET)?;
            if told.is_empty() {
                return Ok(all);
            }
            all.extend(told);
        }
    }

    fn sample(&self) -> Sample {
        let heard = self.crowd.heard();
        let (messages, bytes) = (heard.messages, heard.bytes);
        Sample { at: Instant::now(), cpu: cpu::process(self.server.pid()).ran, messages, bytes }
    }

    /// Without what the server does anyhow.
    fn cost(&self, before: Sample, after: Sample) -> Cost {
        let anyhow = self.idle_load * (after.at - before.at).as_secs_f64();
        Cost {
            cpu: (after.cpu - before.cpu - anyhow).max(0.0),
            messages: after.messages - before.messages,
            bytes: after.bytes - before.bytes,
        }
    }

    fn tell(&mut self, what: &str, count: usize, cost: Cost) {
        let each = |it: f64| it / count as f64;
        self.figure(&format!("{what}: server cpu"), each(cost.cpu * 1e6), "us");
        self.figure(&format!("{what}: sent"), each(cost.messages as f64), "messages");
        self.figure(&format!("{what}: sent"), each(cost.bytes as f64), "bytes");
    }

    fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.result.figures.push(Figure::new(name, value, unit));
    }
}

/// Who is named in an event or an answer.
fn names(value: &Value) -> impl Iterator<Item = &str> {
    value["participants"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_events_and_answers() {
        let event = json!({"type": "event", "name": "join", "participants": ["ann", "bob"], "count": 2});
        assert_eq!(names(&event).collect::<Vec<_>>(), ["ann", "bob"]);
        assert_eq!(names(&json!({"name": "presence", "count": 200})).count(), 0);
    }
}
