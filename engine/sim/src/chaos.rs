//! Faults: which there are, how often each strikes, and how often it has.
//!
//! Each kind has its own stream of random numbers, so that switching one off leaves the others where they were.

/// Something that goes wrong without anybody's fault, or that a peer does to us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Fault {
    /// The kernel hands over fewer bytes than have arrived.
    ShortRead,
    /// The kernel takes a batch in pieces.
    ShortWrite,
    /// What has happened is told later.
    DelayedCompletion,
    /// No receive buffer was left.
    BufferShortage,
    /// Two shards at once had records that found no room in a ring.
    RingsFullBothWays,
    /// The clocks jump ahead: the host was suspended.
    ClockJump,
    /// The wall clock alone jumps, in either direction.
    WallClockJump,
    /// A shard is not run while the others are.
    ShardStall,
    /// A wake-up fails and is reported.
    WakeFailure,
    /// A sleeping shard is run without a reason.
    SpuriousWake,
    /// A peer resets its connection.
    PeerReset,
    /// A peer vanishes without a word.
    HalfOpen,
    /// A peer stops reading for a while.
    ReadingStops,
    /// A peer reads a few bytes at a time.
    SlowReading,
    /// A peer writes a few bytes at a time.
    ByteByByte,
    /// A peer ends in the middle of a frame.
    TornFrame,
    /// A peer sends what no proper peer would.
    BadFrame,
    /// A peer sends a message that can't be understood.
    BadMessage,
    /// A peer ends its handshake early, or sends a bad one.
    BadHandshake,
    /// A peer that was lost comes back.
    Reconnect,
    /// A peer offers permessage-deflate; with its stream go all choices about it.
    Deflate,
    /// A peer sends compressed what is none, or becomes too large.
    BadDeflate,
    /// A peer asks for something of a channel's past; with its stream go all choices about it.
    Recovery,
    /// A peer repeats a publish that has an idempotency key; with its stream go all choices about it.
    Repetition,
    /// A peer wants to know who comes and goes.
    Presence,
    /// Sessions wait for a while, and a peer resumes one; with its stream go all choices about it.
    Resume,
    /// A peer acknowledges what comes, or does not; with its stream go all choices about it.
    Acks,
    /// A peer wants only some events, or only so many messages per second; with its stream go all choices about it.
    Filters,
    /// A peer wants to know what becomes of what it publishes.
    Receipts,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::ShortRead,
        Self::ShortWrite,
        Self::DelayedCompletion,
        Self::BufferShortage,
        Self::RingsFullBothWays,
        Self::ClockJump,
        Self::WallClockJump,
        Self::ShardStall,
        Self::WakeFailure,
        Self::SpuriousWake,
        Self::PeerReset,
        Self::HalfOpen,
        Self::ReadingStops,
        Self::SlowReading,
        Self::ByteByByte,
        Self::TornFrame,
        Self::BadFrame,
        Self::BadMessage,
        Self::BadHandshake,
        Self::Reconnect,
        Self::Deflate,
        Self::BadDeflate,
        Self::Recovery,
        Self::Repetition,
        Self::Presence,
        Self::Resume,
        Self::Acks,
        Self::Filters,
        Self::Receipts,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShortRead => "short-read",
            Self::ShortWrite => "short-write",
            Self::DelayedCompletion => "delayed-completion",
            Self::BufferShortage => "buffer-shortage",
            Self::RingsFullBothWays => "rings-full-both-ways",
            Self::ClockJump => "clock-jump",
            Self::WallClockJump => "wall-clock-jump",
            Self::ShardStall => "shard-stall",
            Self::WakeFailure => "wake-failure",
            Self::SpuriousWake => "spurious-wake",
            Self::PeerReset => "peer-reset",
            Self::HalfOpen => "half-open",
            Self::ReadingStops => "reading-stops",
            Self::SlowReading => "slow-reading",
            Self::ByteByByte => "byte-by-byte",
            Self::TornFrame => "torn-frame",
            Self::BadFrame => "bad-frame",
            Self::BadMessage => "bad-message",
            Self::BadHandshake => "bad-handshake",
            Self::Reconnect => "reconnect",
            Self::Deflate => "deflate",
            Self::BadDeflate => "bad-deflate",
            Self::Recovery => "recovery",
            Self::Repetition => "repetition",
            Self::Presence => "presence",
            Self::Resume => "resume",
            Self::Acks => "acks",
            Self::Filters => "filters",
            Self::Receipts => "receipts",
        }
    }
}

/// How often each fault has struck.
pub type FaultCounts = [u64; Fault::ALL.len()];

/// Decides when faults strike.
#[derive(Debug)]
pub struct Chaos {
    streams: Vec<fastrand::Rng>,
    /// One strike in so many chances; 0 for never.
    one_in: [u32; Fault::ALL.len()],
    counts: FaultCounts,
    /// While the run settles, faults that would go on for ever rest.
    is_calm: bool,
}

impl Chaos {
    /// Faults at these rates; a rate of 0 switches one off.
    pub fn new(seed: u64, one_in: [u32; Fault::ALL.len()]) -> Self {
        let stream = |fault: &Fault| {
            fastrand::Rng::with_seed(seed ^ 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(*fault as u64 + 1))
        };
        Self {
            streams: Fault::ALL.iter().map(stream).collect(),
            one_in,
            counts: [0; Fault::ALL.len()],
            is_calm: false,
        }
    }

    /// Whether the fault strikes at this chance; counted.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let does = self.would_strike(fault);
        self.counts[fault as usize] += u64::from(does);
        does
    }

    /// Whether it would, for faults that are counted once they have had an effect.
    pub fn would_strike(&mut self, fault: Fault) -> bool {
        let one_in = self.one_in[fault as usize];
        !self.is_calm && one_in > 0 && self.streams[fault as usize].u32(..one_in) == 0
    }

    /// Whether the fault is part of this run.
    pub fn is_on(&self, fault: Fault) -> bool {
        self.one_in[fault as usize] > 0
    }

    /// Counts a fault that came about elsewhere.
    pub fn note(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    /// A number below `bound` from the fault's own stream: how bad it is.
    pub fn below(&mut self, fault: Fault, bound: usize) -> usize {
        self.streams[fault as usize].usize(..bound.max(1))
    }

    /// Lets all faults rest, or strike again.
    pub fn calm(&mut self, is_calm: bool) {
        self.is_calm = is_calm;
    }

    /// What has struck so far.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }
}
