//! What a message may grow to, because a short one of one encoding can be a long one of the other: it must neither
//! overflow the outboxes of subscribers who can't help it, nor be refused for the sake of nobody.
//!
//! A message alone is judged at its home, which knows whether anybody is sent the other encoding, and before it has a
//! place. What the messages of one batch amount to is judged by the publisher's shard, because their homes are many.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Publish, RequestId};
use corecast_protocol::envelope::{self, NAMES_MAX, name};

use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::format::{Format, other};
use crate::hub::Hub;
use crate::refused::Refused;
use crate::remote::{FromHome, Published};

/// Lists of participants may turn one frame into this many times the bytes of the largest message.
const DIRECT_COPIES_MAX: u64 = 4;

/// What is kept for later may be so many times as large as a message where it is read in the other encoding: outboxes
/// hold as much.
const KEPT_GROWTH_MAX: u64 = 2;

/// What one batch has used of its bounds.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Batch {
    /// Names in its messages.
    pub(crate) names: usize,
    /// More bytes it can't have in either encoding: while that is little, nothing is counted.
    bytes_max: u64,
    /// Of its payloads, each in the encoding in which it has more.
    bytes: u64,
    /// Bytes of all copies of its direct messages.
    copies: u64,
}

impl Hub {
    /// The messages of one batch follow, so many bytes of this encoding: together they may name as many channels and
    /// participants as one message, and grow to as many bytes.
    pub fn begin_batch(&mut self, format: Format, bytes: usize) {
        let bytes_max = envelope::transcoded_len_max(format, bytes as u64);
        self.batch = Some(Batch { bytes_max, ..Batch::default() });
    }

    /// The batch is over.
    pub fn end_batch(&mut self) {
        self.batch = None;
    }

    /// A message of a batch needs room among the others, in both encodings.
    #[inline(always)]
    pub(crate) fn take_bytes(&mut self, publish: &Publish<'_>) -> Result<(), Refused> {
        let bytes_max = self.config.message_bytes;
        match &mut self.batch {
            Some(batch) if batch.bytes_max > bytes_max => batch.take_bytes(publish, bytes_max),
            _ => Ok(()),
        }
    }

    /// The copies of a direct message for so many participants must not be too many bytes, nor those of its batch.
    pub(crate) fn take_copies(&mut self, count: usize, publish: &Publish<'_>) -> Result<(), Refused> {
        let bytes_max = self.config.message_bytes.saturating_mul(DIRECT_COPIES_MAX);
        let alone_max = envelope::transcoded_len_max(publish.format, publish.payload.bytes().len() as u64);
        // In a batch the bounds of all messages would add up to far more than the messages do.
        let together_max = self.batch.map_or(0, |batch| batch.bytes_max.saturating_mul(NAMES_MAX as u64));
        if alone_max.saturating_mul(count as u64).max(together_max) <= bytes_max {
            return Ok(());
        }
        // Whoever is sent the other encoding gets a copy too.
        let bytes = larger_len(publish).saturating_mul(count as u64);
        if bytes > bytes_max && count > 1 {
            let why = format!(
                "the copies for {count} participants have {bytes} bytes, at most {bytes_max}: send to fewer at once"
            );
            return Err(Refused::new(ErrorCode::MessageTooLarge, why));
        }
        let Some(batch) = &mut self.batch else { return Ok(()) };
        if batch.copies.saturating_add(bytes) > bytes_max {
            let why = format!(
                "the copies of this batch's direct messages have more than {bytes_max} bytes: send the rest apart"
            );
            return Err(Refused::new(ErrorCode::Overloaded, why));
        }
        batch.copies += bytes;
        Ok(())
    }

    /// Whether it must be looked at more closely: most messages are too small for that.
    #[inline(always)]
    pub(crate) fn may_be_too_large(&self, it: &Published<'_>) -> bool {
        envelope::transcoded_len_max(it.format, it.payload.len() as u64) > self.config.message_bytes
    }

    /// At the channel's home; its publisher is told so.
    #[cold]
    pub(crate) fn is_too_large_for_channel(
        &mut self,
        now: Now,
        from: u16,
        it: &Published<'_>,
        fx: &mut Effects,
    ) -> bool {
        let wanted = self.homes.wanted(it.hash, it.target, &self.hasher);
        let is_wanted = it.target == name::SYSTEM || !wanted.of(other(it.format)).is_empty();
        let is_kept = !it.is_ephemeral && self.config.namespaces.at(it.rule).numbers();
        self.is_refused(now, from, it, (false, is_wanted, is_kept), fx)
    }

    /// At the participant's home; the publisher is told so.
    #[cold]
    pub(crate) fn is_too_large_for_participant(
        &mut self,
        now: Now,
        from: u16,
        it: &Published<'_>,
        fx: &mut Effects,
    ) -> bool {
        let participant = self.participants.at_home(it.hash, it.target);
        let is_wanted = participant.is_some_and(|it_is| !it_is.wanted().of(other(it.format)).is_empty());
        self.is_refused(now, from, it, (true, is_wanted, !it.is_ephemeral), fx)
    }

    fn is_refused(
        &mut self,
        now: Now,
        from: u16,
        it: &Published<'_>,
        (is_direct, is_wanted, is_kept): (bool, bool, bool),
        fx: &mut Effects,
    ) -> bool {
        if !is_wanted && !is_kept {
            return false;
        }
        // Who reads it later may read the other encoding: that is no reason to refuse what grows a little for nobody, but
        // nobody must be able to keep others from reading on by what becomes six times as large.
        let bytes_max =
            if is_wanted { self.config.message_bytes } else { KEPT_GROWTH_MAX * self.config.message_bytes };
        let bytes = envelope::transcoded_len(it.format, it.payload) as u64;
        if bytes <= bytes_max {
            return false;
        }
        let (conn, id, target, format) = (it.conn, it.id, it.target, other(it.format));
        self.answer_to(now, from, &FromHome::TooLarge { conn, id, target, is_direct, format, bytes }, fx);
        true
    }

    /// The home refused a message; nobody got it.
    pub(crate) fn too_large(
        &self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        (target, is_direct): (&str, bool),
        (format, bytes): (Format, u64),
        fx: &mut Effects,
    ) {
        let bytes_max = self.config.message_bytes;
        let format = match format {
            Format::Json => "JSON",
            Format::MessagePack => "MessagePack",
        };
        let why = format!(
            "whoever reads {target} in {format} would get a payload of {bytes} bytes, too many for {bytes_max} \
             (limits.message_bytes)"
        );
        let channel = (!is_direct).then_some(target);
        self.error(fx, conn, id, channel, ErrorCode::MessageTooLarge, &why);
    }
}

impl Batch {
    #[cold]
    fn take_bytes(&mut self, publish: &Publish<'_>, bytes_max: u64) -> Result<(), Refused> {
        let bytes = larger_len(publish);
        if self.bytes.saturating_add(bytes) > bytes_max {
            let why = format!(
                "in the other encoding the messages of this batch have more than {bytes_max} bytes: send the rest apart"
            );
            return Err(Refused::new(ErrorCode::Overloaded, why));
        }
        self.bytes += bytes;
        Ok(())
    }
}

/// The bytes of a payload in the encoding in which it has more.
fn larger_len(publish: &Publish<'_>) -> u64 {
    let payload = publish.payload.bytes();
    payload.len().max(envelope::transcoded_len(publish.format, payload)) as u64
}
