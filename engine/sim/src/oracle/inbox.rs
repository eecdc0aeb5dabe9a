//! What is kept of inboxes for who is away.

use super::channel::Truth;
use crate::names::Class;

/// Messages that are kept of an inbox.
const KEPT: u64 = 100;

/// Whether messages before this offset may be lost for who catches up on an inbox: that begins with what is kept of it,
/// and nobody is told that more has been.
pub(super) fn may_lack(truth: &Truth, is_behind: bool, is_forgetful: bool, offset: u64) -> bool {
    truth.class == Class::Inbox && is_behind && (is_forgetful || offset > KEPT)
}
