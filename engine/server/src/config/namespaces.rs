//! From `[namespaces.NAME]` to the table of namespaces, checked for contradictions.

use std::collections::BTreeMap;
use std::time::Duration;

use corecast_hub::SlowPolicy;
use corecast_hub::rules::{HistoryOptions, Mode, Namespace, Namespaces, Who};
use corecast_protocol::envelope::command::Priority;
use corecast_protocol::envelope::name::{SYSTEM, is_namespace};

use super::layers::{Options, Problem, Value};

/// Namespaces of one node at most: their numbers have 16 bits.
const NAMESPACES_MAX: usize = 10_000;

/// What a namespace keeps whose mode needs a history and that does not say how much.
const HISTORY: HistoryOptions =
    HistoryOptions { messages: 100, age: Duration::from_secs(300), ..HistoryOptions::NONE };

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

    fn flag(&self, key: &'static str) -> Option<bool> {
        match self.options.find(key) {
            Some((Value::Flag(is), _)) => Some(*is),
            _ => None,
        }
    }

    fn number(&self, key: &'static str) -> Option<u64> {
        match self.options.find(key) {
            Some((Value::Integer(number), _)) => Some(*number),
            _ => None,
        }
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
        let fixed =
            ["subscribe", "mode", "slow_consumer", "demo", "history_size", "history_bytes", "presence"];
        for key in fixed.into_iter().filter(|_| name == SYSTEM) {
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
        let mut it = built_in.cloned().unwrap_or_else(|| Namespace::new(self.name));
        it.subscribe = self.who("subscribe").unwrap_or(it.subscribe);
        it.publish = self.who("publish").unwrap_or(it.publish);
        it.demo = self.flag("demo").unwrap_or(it.demo);
        it.payload_bytes = self.number("payload_bytes").unwrap_or(it.payload_bytes);
        it.priority = match self.word("priority") {
            Some("low") => Priority::Low,
            Some("normal") => Priority::Normal,
            Some("high") => Priority::High,
            Some("critical") => Priority::Critical,
            _ => it.priority,
        };
        self.mode(&mut it);
        self.history(&mut it);
        self.presence(&mut it);
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
        let had_gaps = it.mode == Mode::BestEffort;
        it.mode = match self.word("mode") {
            Some("best_effort") => Mode::BestEffort,
            Some("ordered") => Mode::Ordered,
            Some("reliable") => Mode::Reliable,
            _ => it.mode,
        };
        let has_gaps = it.mode == Mode::BestEffort;
        // A policy that fits the old mode may not fit the new one.
        if has_gaps != had_gaps {
            it.policy = if has_gaps { SlowPolicy::DropOldest } else { SlowPolicy::Disconnect };
        }
        it.policy = match self.word("slow_consumer") {
            Some("disconnect") => SlowPolicy::Disconnect,
            Some("drop_oldest") => SlowPolicy::DropOldest,
            Some("conflate") => SlowPolicy::Conflate,
            _ => it.policy,
        };
        if !has_gaps && it.policy != SlowPolicy::Disconnect {
            let what = format!(
                "`namespaces.{0}.slow_consumer` contradicts its mode: {1} namespace has no gaps, so it is \
                 `disconnect`; or set `namespaces.{0}.mode` to best_effort",
                self.name,
                named(it.mode)
            );
            self.problem(&["slow_consumer", "mode"], what);
        }
    }

    fn history(&mut self, it: &mut Namespace) {
        let name = self.name;
        if it.mode != Mode::BestEffort && !it.numbers() {
            it.history = HISTORY;
        }
        if let Some(messages) = self.number("history_size") {
            if !it.numbers() {
                it.history.age = HISTORY.age;
            }
            it.history.messages = messages as u32;
        }
        if let Some(age) = self.number("history_age_ms") {
            it.history.age = Duration::from_millis(age);
        }
        if let Some(bytes) = self.number("history_bytes") {
            it.history.bytes = bytes;
        }
        if it.numbers() {
            return;
        }
        if it.mode != Mode::BestEffort {
            let what = format!(
                "`namespaces.{name}.history_size` contradicts its mode: {} namespace recovers from its history, so it \
                 keeps 1 message or more; or set `namespaces.{name}.mode` to best_effort",
                named(it.mode)
            );
            self.problem(&["history_size", "mode"], what);
        } else {
            for key in ["history_age_ms", "history_bytes"] {
                if self.options.find(key).is_some() {
                    let what = format!(
                        "`namespaces.{name}.{key}` is of no use: the namespace keeps nothing; set \
                         `namespaces.{name}.history_size` to how many messages it is to keep"
                    );
                    self.problem(&[key], what);
                }
            }
        }
        it.history = HistoryOptions::NONE;
    }

    fn presence(&mut self, it: &mut Namespace) {
        it.presence = self.flag("presence").unwrap_or(it.presence);
        let Some(members) = self.number("presence_members") else { return };
        it.presence_members = members as u32;
        if !it.presence {
            let what = format!(
                "`namespaces.{0}.presence_members` is of no use: set `namespaces.{0}.presence` to true as well",
                self.name
            );
            self.problem(&["presence_members"], what);
        }
    }
}

/// With its article, for a sentence.
fn named(mode: Mode) -> &'static str {
    match mode {
        Mode::BestEffort => "a best_effort",
        Mode::Ordered => "an ordered",
        Mode::Reliable => "a reliable",
    }
}
