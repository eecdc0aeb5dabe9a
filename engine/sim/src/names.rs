//! The channels, patterns and participants that clients of a run use.

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

/// All names of a run.
#[derive(Clone, Debug)]
pub struct Names {
    /// Channels that may be subscribed to, then `system`, then the inboxes of all participants.
    pub channels: Vec<Channel>,
    /// Prefixes that may be subscribed to.
    pub prefixes: Vec<String>,
    /// How many of `channels` may be subscribed to.
    pub open: usize,
    /// Participants.
    pub participants: Vec<String>,
}

impl Names {
    /// `rooms` channels of each class that may be subscribed to, and `participants` inboxes.
    pub fn new(rooms: usize, participants: usize) -> Self {
        let mut channels = Vec::new();
        for room in 0..rooms {
            let half = if room % 2 == 0 { 'a' } else { 'b' };
            channels.push(Channel { name: format!("conversation:{half}{room}"), class: Class::Numbered });
            channels.push(Channel { name: format!("room{half}{room}"), class: Class::Dropping });
            channels.push(Channel { name: format!("metrics:{half}{room}"), class: Class::Conflating });
        }
        let open = channels.len();
        channels.push(Channel { name: "system".to_owned(), class: Class::Numbered });
        let participants: Vec<String> = (0..participants).map(|index| format!("p{index}")).collect();
        for name in &participants {
            channels.push(Channel { name: name.clone(), class: Class::Inbox });
        }
        let prefixes =
            ["conversation:", "conversation:a", "metrics:", "metrics:b"].map(str::to_owned).to_vec();
        Self { channels, prefixes, open, participants }
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

    /// Whether a prefix covers a channel.
    pub fn covers(&self, prefix: usize, channel: ChannelIndex) -> bool {
        usize::from(channel) < self.open
            && self.channels[usize::from(channel)].name.starts_with(&self.prefixes[prefix])
    }
}
