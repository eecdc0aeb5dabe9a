//! What the clients of each shard saw of it, to be compared with what it counted.

use crate::client::End;

/// What the clients of one shard saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Book {
    /// Connections that have not ended for their clients.
    pub sessions: u64,
    /// Those of them that are past the handshake.
    pub open: u64,
    /// Messages that were read, and news of epochs.
    pub copies: u64,
    /// News of positions that may be answers to who was catching up, which are no copies.
    pub doubtful: u64,
    /// Connections that ended without anybody knowing how much was under way to them.
    pub loose_ends: u64,
    /// Closes as a slow consumer.
    pub slow: u64,
    /// Closes for a broken protocol.
    pub violations: u64,
    /// Handshakes that were refused.
    pub refused: u64,
    /// Closes for want of a pong, and handshakes that took too long.
    pub timeouts: u64,
}

impl Book {
    /// A connection has ended for its client.
    pub(crate) fn ended(&mut self, end: &End, was_open: bool) {
        self.sessions -= 1;
        self.open -= u64::from(was_open);
        match end {
            End::Closed(4000) => {
                // What waited for it was thrown away.
                self.slow += 1;
                self.loose_ends += 1;
            }
            End::Closed(4001) => self.timeouts += 1,
            End::Closed(1002 | 1007 | 1009) => self.violations += 1,
            // All that was queued before the end was read before it.
            End::Closed(_) | End::Fin => {}
            End::Refused(status) => {
                self.refused += 1;
                self.timeouts += u64::from(*status == 408);
            }
            End::Reset | End::Own => self.loose_ends += 1,
        }
    }
}
