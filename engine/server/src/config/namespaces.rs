//! From `[namespaces.NAME]` to the table of namespaces, checked for contradictions.

use std::collections::BTreeMap;

use corecast_hub::SlowPolicy;
use corecast_hub::rules::{Namespace, Namespaces, Who};
use corecast_protocol::envelope::command::Priority;
use corecast_protocol::envelope::name::{SYSTEM, is_namespace};

use super::layers::{Options, Problem, Value};

/// Namespaces of one node at most: their numbers have 16 bits.
const NAMESPACES_MAX: usize = 10_000;

/// What was configured on top of the built-in namespaces.
pub(super) fn read(
    configured: &BTreeMap<String, Options>,
    has_default: bool,
    message_bytes: u64,
    problems: &mut Vec<Problem>,
) -> Namespaces {
    let mut namespaces = Namespaces::built_in(has_default);
    for (name, options) in configured.iter().take(NAMESPACES_MAX) {
        let mut checked = Checked { name, options, problems };
        checked.name();
        checked.contradictions(message_bytes);
        namespaces.set(checked.over(namespaces.named(name)));
    }
    if let Some((_, options)) = configured.iter().nth(NAMESPACES_MAX) {
        let what = format!("{} namespaces: {NAMESPACES_MAX} at most", configured.len());
        problems.push(Problem { place: options.place.clone(), what });
    }
    namespaces
}

/// One namespace's options, and where to say what is wrong with them.
struct Checked<'a> {
    name: &'a str,
    options: &'a Options,
    problems: &'a mut Vec<Problem>,
}

impl Checked<'_> {
    fn problem(&mut self, keys: &[&'static str], what: String) {
        let place = self.options.place_of(keys).to_owned();
        self.problems.push(Problem { place, what });
    }

    fn word(&self, key: &'static str) -> Option<&str> {
        match self.options.find(key) {
            Some((Value::Text(word), _)) => Some(word),
            _ => None,
        }
    }

    fn name(&mut self) {
        if !is_namespace(self.name) {
            let what = format!(
                "`{}` is no namespace: a small letter, then up to 31 small letters, digits, _ or -",
                self.name
            );
            self.problem(&[], what);
        }
    }

    fn contradictions(&mut self, message_bytes: u64) {
        let name = self.name;
        if let Some((Value::Integer(bytes), _)) = self.options.find("payload_bytes")
            && *bytes > message_bytes
        {
            let what = format!(
                "`namespaces.{name}.payload_bytes` is {bytes}, more than `limits.message_bytes` lets in: {message_bytes}"
            );
            self.problem(&["payload_bytes"], what);
        }
        // Clients count on what the wire contract says of it: everybody is subscribed without asking.
        let fixed = ["subscribe", "mode", "slow_consumer", "demo"].into_iter();
        for key in fixed.filter(|_| name == SYSTEM) {
            if self.options.find(key).is_some() {
                let what = format!(
                    "`namespaces.{SYSTEM}.{key}` can't be changed: everybody gets all of it, in order"
                );
                self.problem(&[key], what);
            }
        }
    }

    /// The namespace with these options, on top of what it is by default.
    fn over(&mut self, built_in: Option<&Namespace>) -> Namespace {
        let mut it = built_in.cloned().unwrap_or_else(|| Namespace {
            name: self.name.to_owned(),
            subscribe: Who::Anyone,
            publish: Who::Anyone,
            demo: false,
            numbers: false,
            policy: SlowPolicy::DropOldest,
            priority: Priority::Normal,
            payload_bytes: u64::MAX,
        });
        it.subscribe = self.who("subscribe").unwrap_or(it.subscribe);
        it.publish = self.who("publish").unwrap_or(it.publish);
        if let Some((Value::Flag(demo), _)) = self.options.find("demo") {
            it.demo = *demo;
        }
        if let Some((Value::Integer(bytes), _)) = self.options.find("payload_bytes") {
            it.payload_bytes = *bytes;
        }
        it.priority = match self.word("priority") {
            Some("low") => Priority::Low,
            Some("normal") => Priority::Normal,
            Some("high") => Priority::High,
            Some("critical") => Priority::Critical,
            _ => it.priority,
        };
        self.mode(&mut it);
        it
    }

    fn who(&self, key: &'static str) -> Option<Who> {
        match self.word(key)? {
            "owner" => Some(Who::Owner),
            "backends" => Some(Who::Backends),
            _ => Some(Who::Anyone),
        }
    }

    fn mode(&mut self, it: &mut Namespace) {
        let was_ordered = it.numbers;
        match self.word("mode") {
            Some("ordered") => it.numbers = true,
            Some(_) => it.numbers = false,
            None => {}
        }
        // A policy that fits the old mode may not fit the new one.
        if it.numbers != was_ordered {
            it.policy = if it.numbers { SlowPolicy::Disconnect } else { SlowPolicy::DropOldest };
        }
        it.policy = match self.word("slow_consumer") {
            Some("disconnect") => SlowPolicy::Disconnect,
            Some("drop_oldest") => SlowPolicy::DropOldest,
            Some("conflate") => SlowPolicy::Conflate,
            _ => it.policy,
        };
        if it.numbers && it.policy != SlowPolicy::Disconnect {
            let what = format!(
                "`namespaces.{0}.slow_consumer` contradicts its mode: an ordered namespace has no gaps, so it is \
                 `disconnect`; or set `namespaces.{0}.mode` to best_effort",
                self.name
            );
            self.problem(&["slow_consumer", "mode"], what);
        }
    }
}
