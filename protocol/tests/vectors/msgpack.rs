//! `msgpack.json`: messages from clients in MessagePack, and the commands that they are or the errors that answer them.

use corecast_protocol::envelope::{Scanner, batch_messages_msgpack, parse_msgpack};
use serde::Deserialize;
use serde_json::Value;

use crate::commands::{Expected, Parts};
use crate::runner::{Bytes, Case, hex, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    bytes: Bytes,
    depth: Option<usize>,
    command: Option<Value>,
    error: Option<String>,
    id: Option<String>,
    mentions: Option<String>,
}

impl Case for Message {
    const FILE: &'static str = "msgpack";
    const SECTION: &'static str = "commands";
    const EXPECTATIONS: &'static [&'static str] = &["command", "error", "id", "mentions"];

    fn check(&self) -> Result<(), String> {
        let bytes = self.bytes.read()?;
        let mut scanner = Scanner::new(self.depth.unwrap_or(64));
        let expected = Expected {
            command: self.command.as_ref(),
            error: self.error.as_deref(),
            id: self.id.as_deref(),
            mentions: self.mentions.as_deref(),
        };
        let parts = Parts {
            span: |span| hex(span),
            messages: &|range| batch_messages_msgpack(&bytes[range]).map(hex).collect(),
        };
        expected.check(parse_msgpack(&bytes, &mut scanner), &parts)
    }
}

section_tests!(messages, Message);
