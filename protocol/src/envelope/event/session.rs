//! What a client is told of its session.

use crate::envelope::Format;
use crate::envelope::command::RequestId;
use crate::envelope::event::object::Object;

/// What `session` answers beside the subscriptions.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// Who the connection speaks for.
    pub participant: &'a str,
    /// The connection's own id.
    pub client_id: &'a str,
    /// Where the session is in its life.
    pub state: &'a str,
    /// How long a lost connection may be resumed; 0 for never.
    pub resume_window_ms: u64,
}

/// `response` to the query `session`.
pub fn session<'a>(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    it: &Session<'_>,
    subscriptions: impl ExactSizeIterator<Item = &'a str>,
) {
    let mut object = Object::of_type(out, format, "response");
    object.id(id);
    let mut result = object.object("result");
    result.text("participant", it.participant);
    result.text("client_id", it.client_id);
    result.plain("state", it.state.as_bytes());
    result.texts("subscriptions", subscriptions);
    result.number("resume_window_ms", it.resume_window_ms);
    result.end();
    object.end();
}
