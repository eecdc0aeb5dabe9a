//! Who may subscribe and publish where, and how a namespace treats its messages.
//!
//! A table, read once per command. Permissions from tokens will refine it; until then two kinds of access exist.

use std::time::Duration;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::Priority;
use hashbrown::HashMap;

use crate::effect::SlowPolicy;
use crate::history::Bounds;
use crate::member::Access;

/// Whom a namespace lets do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Everybody with a connection.
    Anyone,
    /// Whose participant name is what follows the namespace's colon.
    Owner,
    /// The owner, and whoever is on a demo: it has no agents, and so its participants play them.
    OwnerOrDemo,
    /// Backends, and developers in development mode.
    Backends,
}

/// What a namespace promises to those who are slow or away for a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// May drop for slow consumers, by its policy.
    BestEffort,
    /// No gaps: who is too slow is disconnected, and recovers from the history.
    Ordered,
    /// As ordered, and what is not acknowledged is sent again to those who asked for that.
    Reliable,
}

/// What is kept of each channel of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryOptions {
    /// Messages at most; 0 for no history, and then messages have no offsets of their own.
    pub messages: u32,
    /// Bytes of memory at most; but the latest message is kept whatever it takes.
    pub bytes: u64,
    /// None is kept for longer.
    pub age: Duration,
}

impl HistoryOptions {
    /// Nothing is kept.
    pub const NONE: Self = Self { messages: 0, bytes: u64::MAX, age: Duration::ZERO };

    pub(crate) fn bounds(self) -> Bounds {
        let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        Bounds { messages: self.messages as usize, bytes, age: self.age }
    }
}

/// Participants of a channel whose names are kept, where nothing else is said; those beyond are only counted.
pub const PRESENCE_MEMBERS: u32 = 10_000;

/// One namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Who may subscribe.
    pub subscribe: Who,
    /// Who may publish.
    pub publish: Who,
    /// Whether demo participants may use it at all.
    pub demo: bool,
    /// What it promises.
    pub mode: Mode,
    /// What is kept of each of its channels.
    pub history: HistoryOptions,
    /// Whether it is known who is on its channels, and who comes and goes is told to those who ask.
    pub presence: bool,
    /// Participants of one channel whose names are kept; those beyond are only counted. Of no use without `presence`.
    pub presence_members: u32,
    /// What becomes of messages for slow consumers.
    pub policy: SlowPolicy,
    /// Where the publisher names none.
    pub priority: Priority,
    /// Bytes of a payload at most, as it was published.
    pub payload_bytes: u64,
}

/// All namespaces of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespaces {
    all: Vec<Namespace>,
    /// By name, where there are too many to look at each.
    index: HashMap<String, u16, foldhash::fast::FixedState>,
}

/// Up to this many namespaces are looked through: that is faster than a hash of the name.
const LOOKED_THROUGH_MAX: usize = 8;

impl Namespaces {
    /// Those of the wire contract, section 6. `has_default` says whether names without a colon are channels.
    pub fn built_in(has_default: bool) -> Self {
        let of = |name: &str, subscribe, publish| Namespace {
            subscribe,
            publish,
            demo: true,
            ..Namespace::new(name)
        };
        let kept = |messages, minutes: u64| HistoryOptions {
            messages,
            age: Duration::from_secs(60 * minutes),
            ..HistoryOptions::NONE
        };
        let mut all = vec![
            Namespace {
                demo: false,
                ..of("agent", Who::Anyone, Who::Owner).keeping(Mode::Ordered, kept(100, 5))
            },
            of("user", Who::Owner, Who::Owner).keeping(Mode::Reliable, kept(100, 5)),
            Namespace {
                presence: true,
                ..of("conversation", Who::Anyone, Who::Anyone).keeping(Mode::Reliable, kept(100, 60))
            },
            Namespace {
                priority: Priority::Critical,
                ..of("system", Who::Anyone, Who::Backends).keeping(Mode::Ordered, kept(10, 60))
            },
            Namespace { policy: SlowPolicy::Conflate, ..of("metrics", Who::Anyone, Who::OwnerOrDemo) },
        ];
        if has_default {
            all.push(of("default", Who::Anyone, Who::Anyone));
        }
        let mut namespaces = Self::default();
        for namespace in all {
            namespaces.set(namespace);
        }
        namespaces
    }

    /// Adds a namespace, or replaces the one of its name.
    ///
    /// # Panics
    /// If there are 65,536 already.
    pub fn set(&mut self, namespace: Namespace) {
        if let Some((index, _)) = self.find(&namespace.name) {
            self.all[usize::from(index)] = namespace;
            return;
        }
        let index = u16::try_from(self.all.len()).expect("a node has at most 65,536 namespaces");
        self.index.insert(namespace.name.clone(), index);
        self.all.push(namespace);
    }

    /// The namespace of this name.
    pub fn named(&self, name: &str) -> Option<&Namespace> {
        self.find(name).map(|(_, namespace)| namespace)
    }

    /// The namespace of this name and its index.
    pub(crate) fn find(&self, name: &str) -> Option<(u16, &Namespace)> {
        let index = if self.all.len() <= LOOKED_THROUGH_MAX {
            self.all.iter().position(|it| it.name == name)? as u16
        } else {
            *self.index.get(name)?
        };
        Some((index, self.at(index)))
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|it| it.name.as_str())
    }

    /// The namespace of this index, which came from [`find`](Self::find) with the same configuration.
    pub(crate) fn at(&self, index: u16) -> &Namespace {
        &self.all[usize::from(index)]
    }
}

/// The rule that was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Denied {
    pub(crate) code: ErrorCode,
    pub(crate) why: &'static str,
}

/// What somebody wants to do on a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Subscribe,
    Publish,
}

/// Who wants to do what where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) act: Act,
    pub(crate) access: Access,
    pub(crate) participant: &'a str,
    /// The channel, or the prefix of a pattern.
    pub(crate) name: &'a str,
    pub(crate) is_pattern: bool,
}

impl Request<'_> {
    /// Whether the channel is the participant's. A pattern is nobody's own: `user:ann*` is also anna's.
    fn is_own(&self) -> bool {
        let rest = self.name.split_once(':').map_or(self.name, |(_, rest)| rest);
        !self.is_pattern && rest == self.participant
    }
}

impl Namespace {
    /// A namespace that is open to all but demos, keeps nothing and promises little.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            subscribe: Who::Anyone,
            publish: Who::Anyone,
            demo: false,
            mode: Mode::BestEffort,
            history: HistoryOptions::NONE,
            presence: false,
            presence_members: PRESENCE_MEMBERS,
            policy: SlowPolicy::DropOldest,
            priority: Priority::Normal,
            payload_bytes: u64::MAX,
        }
    }

    /// The same with a promise, and what it takes to keep it.
    fn keeping(self, mode: Mode, history: HistoryOptions) -> Self {
        Self { mode, history, policy: SlowPolicy::Disconnect, ..self }
    }

    /// Whether messages have offsets of their own; without, they are ephemeral.
    #[inline(always)]
    pub fn numbers(&self) -> bool {
        self.history.messages > 0
    }

    /// Whether it may be done in this namespace, which is the name's.
    #[inline(always)]
    pub(crate) fn check(&self, it: &Request<'_>) -> Result<(), Denied> {
        let denied = |why| Err(Denied { code: ErrorCode::Forbidden, why });
        if it.access == Access::Demo && !self.demo {
            return denied(
                "demo participants may use their own user: and namespaces that are open to demos, as conversation:",
            );
        }
        let who = match it.act {
            Act::Subscribe => self.subscribe,
            Act::Publish => self.publish,
        };
        match (who, it.act) {
            (Who::Anyone, _) => Ok(()),
            (Who::OwnerOrDemo, _) if it.access == Access::Demo => Ok(()),
            // Developers stand for backends, and so may publish anywhere.
            (Who::Backends, _) | (_, Act::Publish) if it.access == Access::Development => Ok(()),
            (Who::Owner | Who::OwnerOrDemo, _) if it.is_own() => Ok(()),
            (Who::Owner | Who::OwnerOrDemo, Act::Subscribe) => {
                denied("only its own participant may subscribe to this channel, by its full name")
            }
            (Who::Owner | Who::OwnerOrDemo, Act::Publish) => {
                denied("only its own participant and backends may publish here")
            }
            (Who::Backends, Act::Subscribe) => denied("only backends may subscribe here"),
            (Who::Backends, Act::Publish) => denied("only backends may publish here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(act: Act, access: Access, participant: &str, channel: &str) -> bool {
        let rules = Namespaces::built_in(true);
        let space =
            channel.split_once(':').map_or(if channel == "system" { "system" } else { "default" }, |it| it.0);
        let (_, rule) = rules.find(space).expect("a built-in namespace");
        let name = channel.strip_suffix('*').unwrap_or(channel);
        let is_pattern = channel.ends_with('*');
        rule.check(&Request { act, access, participant, name, is_pattern }).is_ok()
    }

    #[test]
    fn many_namespaces_are_found_like_few() {
        let mut rules = Namespaces::built_in(true);
        let model = rules.named("conversation").expect("it is built in").clone();
        for number in 0..100 {
            let name = format!("n{number}");
            rules.set(Namespace { name: name.clone(), payload_bytes: number, ..model.clone() });
            for name in ["system", "conversation", &name] {
                let (index, found) = rules.find(name).expect("it was set");
                assert_eq!((found.name.as_str(), rules.at(index)), (name, found));
            }
            assert_eq!(rules.named(&format!("n{}", number + 1)), None);
        }
        rules.set(Namespace { name: "n7".into(), payload_bytes: 70, ..model });
        assert_eq!(rules.names().count(), 106, "an equal name replaces");
        assert_eq!(rules.named("n7").map(|it| it.payload_bytes), Some(70));
    }

    #[test]
    fn built_in_namespaces_are_those_of_the_wire_contract() {
        use Mode::{BestEffort, Ordered, Reliable};
        let rules = Namespaces::built_in(true);
        for (name, mode, messages, minutes, presence) in [
            ("agent", Ordered, 100, 5, false),
            ("user", Reliable, 100, 5, false),
            ("conversation", Reliable, 100, 60, true),
            ("system", Ordered, 10, 60, false),
            ("metrics", BestEffort, 0, 0, false),
            ("default", BestEffort, 0, 0, false),
        ] {
            let it = rules.named(name).expect("it is built in");
            let history =
                HistoryOptions { messages, age: Duration::from_secs(60 * minutes), ..HistoryOptions::NONE };
            assert_eq!((it.mode, it.history, it.presence), (mode, history, presence), "{name}");
            assert_eq!(it.numbers(), messages > 0, "{name}");
            assert_eq!(it.policy == SlowPolicy::Disconnect, mode != BestEffort, "{name} has gaps or none");
        }
    }

    #[test]
    fn who_may_what() {
        use Access::{Demo, Development};
        use Act::{Publish, Subscribe};
        for (act, access, participant, channel, expected) in [
            (Subscribe, Demo, "demo:ann", "conversation:1", true),
            (Publish, Demo, "demo:ann", "conversation:1", true),
            (Publish, Demo, "demo:ann", "metrics:x", true),
            (Subscribe, Demo, "demo:ann", "agent:x", false),
            (Publish, Demo, "demo:ann", "agent:x", false),
            (Subscribe, Demo, "demo:ann", "user:demo:ann", true),
            (Subscribe, Demo, "demo:ann", "user:ann", false),
            (Subscribe, Demo, "demo:ann", "user:demo:ann*", false),
            (Subscribe, Demo, "demo:ann", "user:*", false),
            (Subscribe, Demo, "demo:ann", "conversation:*", true),
            (Subscribe, Demo, "demo:ann", "agent:*", false),
            (Subscribe, Demo, "demo:ann", "system", true),
            (Publish, Demo, "demo:ann", "user:demo:ann", true),
            (Publish, Demo, "demo:ann", "user:bob", false),
            (Publish, Demo, "demo:ann", "system", false),
            (Subscribe, Demo, "demo:ann", "room", true),
            (Subscribe, Development, "ann", "agent:x", true),
            (Publish, Development, "ann", "agent:x", true),
            (Subscribe, Development, "ann", "user:ann", true),
            (Subscribe, Development, "ann", "user:ann*", false),
            (Subscribe, Development, "ann", "agent:*", true),
            (Subscribe, Development, "ann", "user:bob", false),
            (Publish, Development, "ann", "user:bob", true),
            (Publish, Development, "ann", "system", true),
        ] {
            assert_eq!(
                verdict(act, access, participant, channel),
                expected,
                "{act:?} {access:?} {participant} {channel}"
            );
        }
    }
}
