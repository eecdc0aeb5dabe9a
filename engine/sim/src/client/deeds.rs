//! What clients do and meet, counted: a behaviour that never happens tests nothing.

macro_rules! deeds {
    ($($variant:ident = $name:literal,)*) => {
        /// Something that a client did, or that it was answered.
        #[expect(missing_docs, reason = "the names in reports say it")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Deed { $($variant,)* }

        impl Deed {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                [$($name,)*][self as usize]
            }
        }
    };
}

deeds! {
    Overlapping = "request for a name that has one under way",
    Cancelled = "subscription cancelled by an unsubscribe",
    List = "list of names",
    MixedList = "list with patterns",
    TwiceInList = "name twice in a list",
    NotSubscribed = "unsubscribed from what was not subscribed to",
    Forbidden = "refused as forbidden",
    SubscriptionLimit = "refused above subscriptions_per_connection",
    WithoutId = "subscription without an id",
    Recovered = "subscription from a position",
    NotRecovered = "position that was lost, or is none",
    HistoryWanted = "subscription with the latest messages",
    RenewedFrom = "subscription renewed with something of the past",
    WrongEpoch = "position in an epoch that is none",
    BeyondPosition = "position that has not come yet",
    LostOnTheWay = "position announced to who wanted the past",
    HistoryRead = "history read",
    HistoryRefused = "history since a position that is lost, or is none",
    Repeated = "publish repeated",
    RepeatedFirst = "publish repeated that had not arrived",
    Watching = "subscription that watches who comes and goes",
    AckPromised = "subscription to be acknowledged",
    AckGoesOn = "acknowledged subscription that went on with its session",
    Acked = "acknowledgement of all that came",
    AckedInPart = "acknowledgement of part of what came",
    AckedTwice = "acknowledgement once more",
    AckedBeyond = "acknowledgement of what never came",
    ReceiptWanted = "publish with a receipt",
    Receipt = "receipt of what everybody got",
    ReceiptOfFailure = "receipt of what somebody did not get",
    Redelivered = "message that came again",
    Filtered = "subscription with a filter",
    FilterRefused = "filter refused where everybody gets all",
    SkippedTold = "message that says how many were left out before it",
    Came = "somebody came or left, and a watcher was told",
    TypingExpired = "somebody types no more, and a watcher was told",
    Attendance = "attendance taken",
    Foreseen = "attendance that a watcher could foresee",
    Resumed = "session resumed",
    ResumedByPath = "session resumed by its path",
    TakesOver = "token of a living connection presented",
    TakenOver = "session taken over",
    ResumeRefused = "token refused",
    TokenOld = "old token presented",
    TokenOfOther = "token of somebody else presented",
    TokenMadeUp = "token presented that nobody was told",
    ResumedOwn = "session resumed behind an own subscription",
    ResumedInPart = "session resumed without what finds no room",
    SpokeBehindResume = "publish right behind a resumption",
    ResumedInbox = "inbox resumed from a position",
    Stored = "direct message that is kept for who is away",
    SessionDescribed = "session described",
    TimeIso = "connection with time=iso",
    IsoTimeSeen = "time read as ISO 8601",
    PingMessages = "connection with heartbeat=message",
    PingMessageAnswered = "ping message answered",
    Browser = "connection with an Origin",
    BrowserRefused = "browser refused by an upgrade that closes",
    Path = "connection to a path with a channel",
    PathSubscribed = "channel of a path subscribed to",
    PathRefused = "channel of a path refused",
    Demo = "demo connection",
    Anonymous = "connection without a name",
    Echo = "echo connection",
    Echoed = "message echoed",
    Subprotocol = "subprotocol agreed on",
    Binary = "connection that is sent MessagePack",
    Packed = "message in MessagePack",
    OtherEncoding = "message in another encoding than what comes back",
    Probe = "probe answered",
    Pipelined = "frames right behind the handshake",
    ConnectionLimit = "refused above a connection limit",
    AtMessageLimit = "message of exactly message_bytes",
    AboveMessageLimit = "message one byte above message_bytes",
    AtFragmentLimit = "message of exactly message_fragments",
    AboveFragmentLimit = "message one fragment above",
    PingBetweenFragments = "ping between fragments",
    AtDepth = "message nested exactly json_depth deep",
    AboveDepth = "message nested one level deeper",
    TenInvalid = "ten invalid messages in a row",
    NineInvalid = "invalid messages in a row, but less than ten",
    ToList = "publish to a list",
    ToMe = "publish to @me",
    ToTwice = "publish to a list with one name twice",
    ShortForm = "publish by a short form",
    PayloadAbsent = "publish without payload",
    MixedBatch = "batch of several kinds",
    BatchWithErrors = "batch with messages that are refused",
    TimeGiven = "publish with a time",
    IsoTimeGiven = "publish with an ISO 8601 time",
    TextId = "request id that is a string",
    LargestId = "request id close to 2^53",
    EscapedName = "name with escapes",
    Critical = "critical priority",
    Low = "low priority",
    Above64K = "message above 64 KiB",
    CloseWithCode = "close frame with a code",
    CloseWithoutCode = "close frame without a code",
    CloseAnswered = "close frame answered with its code",
    FinBehindClose = "FIN right behind the close frame",
    DataBehindClose = "message behind the own close frame",
    BadClose = "close frame with a code that none may have",
    GoneInAdmission = "connection ended during admission",
    CloseInAdmission = "close frame during admission",
    HalfClose = "FIN while answers are due",
    ResetBehindBatch = "reset behind a large batch",
    Deaf = "client that reads nothing any more",
    DeafEnded = "deaf client ended by the server",
    Deflate = "permessage-deflate agreed on",
    DeflateContext = "contexts taken over from message to message",
    DeflateDeclined = "offer of permessage-deflate that must be declined",
    DeflateOff = "offer of permessage-deflate where it is off",
    SentCompressed = "message sent compressed",
    CompressedInPieces = "compressed message in fragments",
    ReadCompressed = "message read compressed",
    ReadInSmallWindow = "message read compressed in a window of 4 KiB or less",
    TooLargeForWindow = "message read as it is that is larger than the window",
    Corrupt = "corrupt compressed message",
    Bomb = "compressed message that becomes too large",
    ClosedForCause = "closed with the code that was due",
    RefusedForCause = "handshake refused with the status that was due",
}

/// How often each deed was done.
#[derive(Clone, Debug)]
pub struct DeedCounts([u64; Deed::ALL.len()]);

impl Default for DeedCounts {
    fn default() -> Self {
        Self([0; Deed::ALL.len()])
    }
}

impl DeedCounts {
    /// Counts one.
    pub fn did(&mut self, deed: Deed) {
        self.0[deed as usize] += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// How often.
    pub fn of(&self, deed: Deed) -> u64 {
        self.0[deed as usize]
    }

    /// One line for all.
    pub fn report(&self) -> String {
        let each = Deed::ALL.iter().map(|deed| format!("{} {}", deed.name(), self.of(*deed)));
        each.collect::<Vec<_>>().join(", ")
    }

    /// Those that never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        Deed::ALL.iter().filter(|deed| self.of(**deed) == 0).map(|deed| deed.name()).collect()
    }
}
