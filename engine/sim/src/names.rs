//! The channels, patterns and participants that clients of a run use, and who may do what with them.

/// What the namespace of a channel promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Offsets without gaps, or the consumer is disconnected.
    Numbered,
    /// No offsets; the oldest messages may be dropped for a slow consumer.
    Dropping,
    /// No offsets; a later message may replace an earlier one for a slow consumer.
    Conflating,
    /// A participant's inbox: offsets without gaps.
    Inbox,
}

/// How much is kept of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keeps {
    /// The latest messages.
    pub messages: u64,
    /// For how long, in virtual microseconds.
    pub age_us: u64,
    /// In so many bytes, where they are bounded.
    pub bytes: Option<u64>,
}

impl Keeps {
    /// So many messages for so many minutes.
    const fn of(messages: u64, minutes: u64) -> Self {
        Self { messages, age_us: minutes * 60_000_000, bytes: None }
    }

    /// What is certainly kept: where bytes are bounded only the latest message, for what another takes is the
    /// server's own business.
    fn certain(self) -> Self {
        if self.bytes.is_some() { Self { messages: 1, ..self } } else { self }
    }
}

/// A channel.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its name; a participant's for an inbox.
    pub name: String,
    /// What is promised.
    pub class: Class,
}

/// An index into [`Names::channels`].
pub type ChannelIndex = u16;

/// Whoever connects: what the contract lets it do depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its participant's name.
    pub name: &'a str,
    /// Whether it came by `/ws/demo`.
    pub is_demo: bool,
}

/// All names of a run.
#[derive(Clone, Debug)]
pub struct Names {
    /// Channels that may be subscribed to, then `system`, then the inboxes of all participants.
    pub channels: Vec<Channel>,
    /// Prefixes that may be subscribed to.
    pub prefixes: Vec<String>,
    /// How many of `channels` may be subscribed to.
    pub open: usize,
    /// Participants, those of the demo last.
    pub participants: Vec<String>,
    /// How many of them are not of the demo.
    pub developers: usize,
}

/// Participants of the demo.
const DEMO_MAX: usize = 6;

impl Names {
    /// `rooms` channels of each class that may be subscribed to, and `participants` inboxes, those of the demo apart.
    pub fn new(rooms: usize, participants: usize) -> Self {
        let mut channels = Vec::new();
        for room in 0..rooms {
            let half = if room % 2 == 0 { 'a' } else { 'b' };
            channels.push(Channel { name: format!("conversation:{half}{room}"), class: Class::Numbered });
            channels.push(Channel { name: format!("room{half}{room}"), class: Class::Dropping });
            channels.push(Channel { name: format!("metrics:{half}{room}"), class: Class::Conflating });
        }
        for name in ["agent:a0", "user:p0", "user:demo:d0"] {
            channels.push(Channel { name: name.to_owned(), class: Class::Numbered });
        }
        let open = channels.len();
        channels.push(Channel { name: "system".to_owned(), class: Class::Numbered });
        let demo = participants.min(DEMO_MAX);
        let names = (0..participants).map(|index| format!("p{index}"));
        let participants: Vec<String> =
            names.chain((0..demo).map(|index| format!("demo:d{index}"))).collect();
        for name in &participants {
            channels.push(Channel { name: name.clone(), class: Class::Inbox });
        }
        let prefixes = ["conversation:", "conversation:a", "metrics:", "metrics:b", "agent:", "user:"];
        let developers = participants.len() - demo;
        Self { channels, prefixes: prefixes.map(str::to_owned).to_vec(), open, participants, developers }
    }

    /// `system`, which everybody gets.
    pub fn system(&self) -> ChannelIndex {
        self.open as ChannelIndex
    }

    /// The inbox of a participant.
    pub fn inbox(&self, participant: usize) -> ChannelIndex {
        (self.open + 1 + participant) as ChannelIndex
    }

    /// The channel of this name.
    pub fn find(&self, name: &str) -> Option<ChannelIndex> {
        let index = self.channels[..=self.open].iter().position(|channel| channel.name == name)?;
        Some(index as ChannelIndex)
    }

    /// How much is kept of a channel (the contract, section 6), or `bounds` where a run sets its own.
    pub fn keeps(&self, channel: ChannelIndex, bounds: Option<Keeps>) -> Keeps {
        let Channel { name, class } = &self.channels[usize::from(channel)];
        let bounds = bounds.map(Keeps::certain);
        match (class, name.split_once(':')) {
            (Class::Numbered, None) => Keeps::of(10, 60),
            (Class::Numbered, Some(("conversation", _))) => bounds.unwrap_or(Keeps::of(100, 60)),
            (Class::Numbered, _) => bounds.unwrap_or(Keeps::of(100, 5)),
            _ => Keeps::default(),
        }
    }

    /// Whether a prefix covers a channel.
    pub fn covers(&self, prefix: usize, channel: ChannelIndex) -> bool {
        usize::from(channel) < self.open
            && self.channels[usize::from(channel)].name.starts_with(&self.prefixes[prefix])
    }

    /// Whether somebody may subscribe to a channel (the contract, section 6).
    pub fn may_subscribe(&self, who: Who<'_>, channel: ChannelIndex) -> bool {
        match self.channels[usize::from(channel)].name.split_once(':') {
            Some(("user", owner)) => owner == who.name,
            Some(("agent", _)) => !who.is_demo,
            _ => true,
        }
    }

    /// Whether somebody may subscribe to all channels with a prefix: of `user:`, nobody may.
    pub fn may_subscribe_prefix(&self, who: Who<'_>, prefix: usize) -> bool {
        match self.prefixes[prefix].as_str() {
            "user:" => false,
            "agent:" => !who.is_demo,
            _ => true,
        }
    }

    /// Whether somebody may publish to a channel or a participant: developers stand for backends.
    pub fn may_publish(&self, who: Who<'_>, channel: ChannelIndex) -> bool {
        let Channel { name, class } = &self.channels[usize::from(channel)];
        match name.split_once(':') {
            _ if !who.is_demo => true,
            _ if *class == Class::Inbox || channel == self.system() => false,
            Some(("user", owner)) => owner == who.name,
            Some(("agent", _)) => false,
            _ => true,
        }
    }
}
