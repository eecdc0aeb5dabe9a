//! Canaries: bugs that can be planted in hub and shard, each of which the simulator must catch.
//!
//! Where a bug would be, the code asks [`strikes`]. Without the feature `canaries` that is a constant `false`, and
//! nothing of it is compiled. Planting is per thread: the simulator runs all shards on one.

macro_rules! canaries {
    ($($variant:ident($name:literal, every $every:literal): $what:literal => $caught_by:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Canary { $(#[doc = $what] $variant,)* }

        #[cfg(feature = "canaries")]
        impl Canary {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// On the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What goes wrong, in one sentence.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }

            /// Which checker of the simulator must catch it.
            pub fn caught_by(self) -> &'static str {
                match self { $(Self::$variant => $caught_by,)* }
            }

            /// It strikes at every so manieth opportunity: rarely, but some times in a run of 20,000 ticks.
            pub fn every(self) -> u64 {
                match self { $(Self::$variant => $every,)* }
            }
        }
    };
}

canaries! {
    // The hub: offsets, who gets what, and what is remembered.
    OffsetSkipped("offset-skipped", every 200):
        "A home raises a channel's offset by two." => "order: a gap in a channel's offsets",
    OffsetRepeated("offset-repeated", every 200):
        "A home gives two messages of a channel the same offset." => "order: offsets that do not rise",
    EpochChangedSilently("epoch-changed-silently", every 200):
        "A channel begins a new epoch and nobody is told." => "order: an epoch that was not announced",
    PublishDroppedAtHome("publish-dropped-at-home", every 200):
        "A publish is accepted and answered, but delivered to nobody." => "delivery: accepted and not delivered",
    HistoryForgotten("history-forgotten", every 20):
        "A home does not keep a message that it numbered." => "delivery: recovered, but a message is missing",
    StoredMessageForgotten("stored-message-forgotten", every 1):
        "What was kept for who was away is not sent on return." => "delivery: kept for who was away, and not delivered on return",
    FilterIgnored("filter-ignored", every 20):
        "A subscriber gets an event that its filter leaves out." => "filters: an event that was not asked for",
    SkippedForgotten("skipped-forgotten", every 20):
        "A message that a filter leaves out is not counted." => "filters: fewer are said to be left out than were",
    BucketRefilled("bucket-refilled", every 1):
        "The bucket of a rate is full when its session is resumed." => "filters: more than the rate allows",
    ReplayedMessageLost("replayed-message-lost", every 5):
        "A message of the past is not sent to who is catching up." => "delivery: recovered, but a message is missing",
    TurnUnbounded("turn-unbounded", every 1):
        "However much of the past is asked for at once, all of it is read in one turn." => "tests: reading, more than a bounded part in one turn",
    LiveTooEarly("live-too-early", every 2):
        "A subscription is live before all that it missed has come." => "delivery: recovered, but a message is missing",
    LiveNever("live-never", every 1):
        "A subscription that has caught up is not made live." => "delivery: accepted and not delivered",
    MessageToNonSubscriber("message-to-non-subscriber", every 100):
        "A message goes to a connection that did not subscribe." => "membership: a message that was not asked for",
    RecipientForgotten("recipient-forgotten", every 200):
        "One subscriber of a shard is left out of a delivery." => "delivery: accepted and not delivered to all",
    EchoNotLeftOut("echo-not-left-out", every 5):
        "A publisher gets its own message although it wanted no echo." => "membership: an echo that was refused",
    PatternServedTwice("pattern-served-twice", every 20):
        "Overlapping subscriptions deliver a message twice." => "delivery: a message that came twice",
    UnsubscribedStillServed("unsubscribed-still-served", every 5):
        "`unsubscribed` is answered, but the subscription lives on." => "membership: a message after `unsubscribed`",
    EarlyMessages("early-messages", every 2):
        "A subscription delivers before `subscribed` was answered." => "membership: a message before `subscribed`",
    LeaveForgotten("leave-forgotten", every 5):
        "A subscription ends and its participant stays present." => "presence: a member without a subscription",
    JoinForgotten("join-forgotten", every 1):
        "Those who want to know who comes and goes are told nothing of a change." => "presence: a change that watchers were not told",
    MissedUntold("missed-untold", every 1):
        "A watcher whose session goes on is told nothing of who came and went meanwhile." => "tests: presence, a watcher that came back and was not told",
    TypingForEver("typing-for-ever", every 2):
        "Somebody types no more and nobody is told." => "presence: typing that does not expire",
    RecordCorrupted("record-corrupted", every 100):
        "A digit of the payload changes on its way between shards." => "delivery: a payload that nobody published",
    AnswerForgotten("answer-forgotten", every 50):
        "A publish with an id is delivered, but not answered." => "steps: a request without an answer",
    WrongForm("wrong-form", every 50):
        "Subscribers of one encoding are sent the bytes of the other." => "content: a message in another encoding",
    EncodingForgotten("encoding-forgotten", every 10):
        "A home takes who is sent MessagePack for one who is sent JSON." => "order: a gap in a channel's offsets",
    RepetitionDelivered("repetition-delivered", every 5):
        "A publish whose key is known is delivered again." => "delivery: a repetition that was delivered",
    ResentWhileQueued("resent-while-queued", every 2):
        "What is not acknowledged is sent again although an earlier copy has only just been written." => "tests: delivery, an attempt before its time",
    AckForgotten("ack-forgotten", every 3):
        "An acknowledgement is not remembered." => "acks: a message that comes again although it was acknowledged",
    LossUncounted("loss-uncounted", every 3):
        "A copy that was lost is counted as delivered." => "receipts: more delivered than were read",
    ReceiptForgotten("receipt-forgotten", every 3):
        "A home has heard from all shards what became of a message, and does not tell its publisher." => "receipts: one that never comes",
    ReceiptWithoutAcks("receipt-without-acks", every 2):
        "What is acknowledged is not counted as delivered, but as failed." => "receipts: failed although it was acknowledged",
    MemberRemembered("member-remembered", every 20):
        "A closed connection stays among a channel's subscribers." => "leaks: a hub that is not empty at the end",
    AddressRemembered("address-remembered", every 10):
        "A closed connection is still counted for its address." => "leaks: a hub that is not empty at the end",

    // Sessions.
    SessionRemembered("session-remembered", every 5):
        "The tokens of a session that expired stay good." => "leaks: a hub that is not empty at the end",
    TokenReused("token-reused", every 2):
        "A token works again although its client has a later one." => "sessions: a token that works twice; or leaks: a hub that is not empty at the end",
    TakeoverUnfenced("takeover-unfenced", every 1):
        "A session goes on elsewhere before all that it published arrived." => "tests: sessions, messages of both connections of a session out of order",
    SubscriptionLost("subscription-lost", every 3):
        "A resumed session lacks a subscription." => "sessions: a subscription that did not come back",
    SessionOverstays("session-overstays", every 2):
        "A session waits for its client longer than it may." => "sessions: one that should be over",
    TakenOverStillThere("taken-over-still-there", every 1):
        "A connection whose session goes on elsewhere is not closed." => "sessions: a connection without its session",
    SessionSkips("session-skips", every 2):
        "A session goes on one message behind where its client was." => "answers: recovered from another position",

    // The rings between shards.
    LostWakeUp("lost-wake-up", every 3):
        "A sleeping shard got records and is not woken." => "progress: a sleeping shard with records in its rings",
    BlockedForgotten("blocked-forgotten", every 1):
        "A consumer made room and does not wake the producer that waits for it." => "progress: a spill that has room",
    BothRingsFull("both-rings-full", every 1):
        "Deliveries are not taken while requests wait for room." => "progress: shards that wait for each other",
    RequestsWithoutRoom("requests-without-room", every 1):
        "Requests are taken although deliveries have no room." => "bounds: a spill beyond its bound",
    SpillUnbounded("spill-unbounded", every 1):
        "Messages are acted on although the rings have no room." => "bounds: a spill beyond its bound",
    SpillOvertaken("spill-overtaken", every 2):
        "A record goes into the ring past those that wait for room." => "order: offsets that do not rise",
    RecordsSwapped("records-swapped", every 50):
        "A record goes before all others of its tick." => "order: offsets or a publisher's messages out of order",

    // A shard and its connections.
    PublishesSwapped("publishes-swapped", every 5):
        "The first message of a batch is acted on last." => "order: a publisher's messages out of order",
    SlotReuse("slot-reuse", every 1):
        "A late key finds the next user of its slot." => "steps: an answer that was not asked for",
    FrameLeaked("frame-leaked", every 200):
        "A handle of a frame is never let go." => "leaks: frames in use at the end",
    PackedUnasked("packed-unasked", every 20):
        "A compressed frame goes to who did not agree on compression." => "steps: a compressed frame that was not agreed on",
    WindowIgnored("window-ignored", every 1):
        "Messages are compressed for a client whose window does not cover them." => "content: a reference beyond the window",
    CompressorNotReset("compressor-not-reset", every 1):
        "A compressed message refers to those before it." => "content: a reference to what is forgotten",
    LeaseLeaked("lease-leaked", every 100):
        "A receive buffer never goes back." => "leaks: receive buffers that are missing at the end",
    AssemblyLeaked("assembly-leaked", every 1):
        "The buffer of an unfinished message outlives its connection." => "leaks: assembly bytes at the end",
    InputLost("input-lost", every 10):
        "Input that was held back is forgotten." => "delivery: sent, read and not acted on",
    DropUncounted("drop-uncounted", every 3):
        "A message is dropped for a slow consumer and not counted." => "accounting: a gap without a drop",
    ConflationUncounted("conflation-uncounted", every 3):
        "A value is replaced by a later one and not counted." => "accounting: a gap without a replacement",
    DisconnectUncounted("disconnect-uncounted", every 2):
        "A slow consumer is disconnected and not counted." => "accounting: closes with 4000 that nobody counted",
    DeliveryUncounted("delivery-uncounted", every 200):
        "A message is queued for its recipients and not counted." => "accounting: more received than delivered",
    PolicyIgnored("policy-ignored", every 1):
        "A message of a channel that promises no gaps is dropped, and its consumer stays." => "order: a gap in a channel's offsets",
    OutboxStuck("outbox-stuck", every 300):
        "A batch came back and still counts as in flight." => "progress: a connection that gets nothing any more",
    DoubleSend("double-send", every 10):
        "A batch is sent while another one is in flight." => "steps: two batches in flight",
    ReplyOvertaken("reply-overtaken", every 10):
        "A reply or close frame passes what was queued before it." => "steps: out of order on one connection",
    PriorityBreaksOrder("priority-breaks-order", every 1):
        "A message of higher priority passes its own channel's." => "order: offsets that do not rise",
    PausedForEver("paused-for-ever", every 20):
        "A connection that was held back is never looked at again." => "progress: input that is never acted on",
    PongIgnored("pong-ignored", every 1):
        "What a client sends is no sign of life." => "steps: closed with 4001 although it answered",
    TimerLost("timer-lost", every 7):
        "A connection's deadline is not set." => "progress: a silent peer that is never given up",
    ClientUncounted("client-uncounted", every 10):
        "A client left and still counts against the node's limit." => "leaks: clients of the node at the end",
    SentAfterClose("sent-after-close", every 10):
        "Something follows a close frame." => "steps: a frame behind the close frame",
    FinForgotten("fin-forgotten", every 2):
        "The end of a peer's stream is not acted on." => "progress: a connection whose peer is gone",
    DrainEarly("drain-early", every 1):
        "A drain goes on before all markers came." => "delivery: accepted before the drain and not delivered",
}

#[cfg(feature = "canaries")]
mod planted {
    use super::Canary;
    use std::cell::Cell;

    thread_local! {
        /// What is planted in this thread, and how often it had the opportunity.
        static PLANTED: Cell<Option<(Canary, u64)>> = const { Cell::new(None) };
    }

    /// Plants a bug in this thread, in place of an earlier one, or none. Counting begins anew.
    pub fn plant(canary: Option<Canary>) {
        PLANTED.set(canary.map(|canary| (canary, 0)));
    }

    /// Whether the bug happens now: at every n-th call while it is planted.
    pub fn strikes(canary: Canary) -> bool {
        match PLANTED.get() {
            Some((planted, calls)) if planted == canary => {
                PLANTED.set(Some((canary, calls + 1)));
                (calls + 1) % canary.every() == 0
            }
            _ => false,
        }
    }

    /// How often the planted bug has happened.
    pub fn struck() -> u64 {
        PLANTED.get().map_or(0, |(canary, calls)| calls / canary.every())
    }
}

#[cfg(feature = "canaries")]
pub use planted::{plant, strikes, struck};

/// Never: this build has no canaries.
#[cfg(not(feature = "canaries"))]
#[inline(always)]
pub const fn strikes(_: Canary) -> bool {
    false
}

/// Changes the first digit of a message's payload, so that it stays valid JSON.
pub(crate) fn change_payload(json: &mut [u8]) {
    const FIELD: &[u8] = b"\"payload\":";
    let Some(at) = json.windows(FIELD.len()).position(|bytes| bytes == FIELD) else { return };
    if let Some(digit) = json[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
        // Never to zero: a number may not begin with one.
        *digit = if *digit == b'9' { b'8' } else { *digit + 1 };
    }
}

#[cfg(all(test, feature = "canaries"))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn only_what_is_planted_strikes_every_nth_time() {
        for planted in Canary::ALL {
            plant(Some(*planted));
            for call in 1..=3 * planted.every() {
                for other in Canary::ALL.iter().filter(|it| *it != planted) {
                    assert!(!strikes(*other), "{} is not planted", other.name());
                }
                assert_eq!(strikes(*planted), call % planted.every() == 0, "{}: {call}", planted.name());
            }
            assert_eq!(struck(), 3);
            plant(Some(*planted));
            assert_eq!(struck(), 0, "counting begins anew");
        }
        plant(None);
        assert!(!Canary::ALL.iter().any(|canary| strikes(*canary)));
        assert_eq!(struck(), 0);
    }

    #[test]
    fn names_are_unique_and_texts_are_sentences() {
        let names: HashSet<_> = Canary::ALL.iter().map(|canary| canary.name()).collect();
        assert_eq!(names.len(), Canary::ALL.len());
        for canary in Canary::ALL {
            // The variant in kebab case.
            let mut kebab = String::new();
            for letter in format!("{canary:?}").chars() {
                if letter.is_uppercase() && !kebab.is_empty() {
                    kebab.push('-');
                }
                kebab.push(letter.to_ascii_lowercase());
            }
            assert_eq!(canary.name(), kebab);
            assert!(canary.what().ends_with('.') && canary.caught_by().contains(": "), "{kebab}");
            assert!(canary.every() > 0);
        }
    }

    #[test]
    fn a_changed_payload_is_still_json() {
        for (before, after) in [
            (
                r#"{"offset":7,"payload":{"n":90},"timestamp":1}"#,
                r#"{"offset":7,"payload":{"n":80},"timestamp":1}"#,
            ),
            (r#"{"payload":0.5}"#, r#"{"payload":1.5}"#),
            (r#"{"payload":"\u0041"}"#, r#"{"payload":"\u1041"}"#),
            (r#"{"payload":"x"}"#, r#"{"payload":"x"}"#),
            (r#"{"pong":1}"#, r#"{"pong":1}"#),
        ] {
            let mut json = before.as_bytes().to_vec();
            change_payload(&mut json);
            assert_eq!(String::from_utf8_lossy(&json), after);
            assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        }
    }
}
