//! What one connection is told: answers and errors, in its encoding.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::RequestId;
use corecast_protocol::envelope::event;

use crate::effect::{ConnKey, Effect, Effects, Place};
use crate::format::Format;
use crate::hub::Hub;
use crate::session::RESUMING;

impl Hub {
    /// An answer for one connection, in its encoding.
    pub(crate) fn reply(&self, fx: &mut Effects, conn: ConnKey, write: impl FnOnce(&mut Vec<u8>, Format)) {
        self.reply_at(fx, conn, Place::Liftable, write);
    }

    /// A message for one connection that nothing passes: what begins or ends a subscription, or all of them.
    pub(crate) fn reply_fixed(
        &self,
        fx: &mut Effects,
        conn: ConnKey,
        write: impl FnOnce(&mut Vec<u8>, Format),
    ) {
        self.reply_at(fx, conn, Place::Fixed, write);
    }

    fn reply_at(
        &self,
        fx: &mut Effects,
        conn: ConnKey,
        place: Place,
        write: impl FnOnce(&mut Vec<u8>, Format),
    ) {
        // Who is gone hears nothing more.
        let Some(member) = self.members.find(conn) else { return };
        let format = member.format;
        let message = fx.write(|out| write(out, format));
        fx.list.push(Effect::Reply { conn, message, format, place });
    }

    /// An error for one connection.
    pub(crate) fn error(
        &self,
        fx: &mut Effects,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: Option<&str>,
        code: ErrorCode,
        why: &str,
    ) {
        debug_assert_ne!(id, Some(RESUMING), "no client asked for this");
        self.reply(fx, conn, |out, format| event::error(out, format, id, channel, code, why, None));
    }
}
