//! `commands.json`: messages from clients, and the commands that they are or the errors that answer them.

use std::ops::Range;

use corecast_protocol::envelope::command::{
    Call, Channels, Command, Position, Priority, Publish, Request, RequestId, Subscribe, Target,
};
use corecast_protocol::envelope::{Rejection, Scanner, batch_messages, parse};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::runner::{Bytes, Case, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    text: Bytes,
    depth: Option<usize>,
    command: Option<Value>,
    error: Option<String>,
    id: Option<String>,
    mentions: Option<String>,
}

impl Case for Message {
    const FILE: &'static str = "commands";
    const SECTION: &'static str = "cases";
    const EXPECTATIONS: &'static [&'static str] = &["command", "error", "id", "mentions"];

    fn check(&self) -> Result<(), String> {
        let text = self.text.read_text()?;
        let mut scanner = Scanner::new(self.depth.unwrap_or(64));
        let expected = Expected {
            command: self.command.as_ref(),
            error: self.error.as_deref(),
            id: self.id.as_deref(),
            mentions: self.mentions.as_deref(),
        };
        let parts = Parts {
            span: |span| String::from_utf8_lossy(span).into_owned(),
            messages: &|range| batch_messages(&text[range]).map(str::to_owned).collect(),
        };
        expected.check(parse(&text, &mut scanner), &parts)
    }
}

/// What a case says must come out.
pub(crate) struct Expected<'a> {
    pub(crate) command: Option<&'a Value>,
    pub(crate) error: Option<&'a str>,
    pub(crate) id: Option<&'a str>,
    pub(crate) mentions: Option<&'a str>,
}

/// How the parts of a message are written down that are passed on as they came.
pub(crate) struct Parts<'a> {
    pub(crate) span: fn(&[u8]) -> String,
    pub(crate) messages: &'a dyn Fn(Range<usize>) -> Vec<String>,
}

impl Expected<'_> {
    pub(crate) fn check(
        &self,
        parsed: Result<Request<'_>, Rejection>,
        parts: &Parts<'_>,
    ) -> Result<(), String> {
        match (parsed, self.command, self.error) {
            (Ok(request), Some(expected), None) => {
                same("id", request.id.map(id_text).as_deref(), self.id)?;
                same("command", &neutral(&request.command, parts), expected)
            }
            (Err(rejection), None, Some(expected)) => {
                same("error", rejection.code.as_str(), expected)?;
                same("id", rejection.id.as_ref().map(|id| id_text(id.as_id())).as_deref(), self.id)?;
                let mentioned = self.mentions.unwrap_or_default();
                let message = &rejection.message;
                same(&format!("{mentioned:?} in {message:?}"), message.contains(mentioned), true)
            }
            (got, ..) => Err(format!("got {got:?}")),
        }
    }
}

/// The id as JSON, as it is echoed.
fn id_text(id: RequestId<'_>) -> String {
    match id {
        RequestId::Text(contents) => format!("\"{contents}\""),
        RequestId::Plain(text) => Value::from(text).to_string(),
        RequestId::Number(number) => number.to_string(),
    }
}

/// The command as the README describes it.
fn neutral(command: &Command<'_>, parts: &Parts<'_>) -> Value {
    let span = parts.span;
    match command {
        Command::Authenticate { token } => json!({"type": "authenticate", "token": token}),
        Command::Refresh { token } => json!({"type": "refresh", "token": token}),
        Command::Resume { token, positions } => {
            let positions: Vec<_> =
                positions.iter().map(|(channel, at)| json!([channel, at.epoch, at.offset])).collect();
            json!({"type": "resume", "token": token, "positions": positions})
        }
        Command::Subscribe(subscribe) => neutral_subscribe(subscribe),
        Command::Unsubscribe { channels } => json!({"type": "unsubscribe", "channels": channels.as_slice()}),
        Command::Publish(publish) => neutral_publish(publish, parts),
        Command::Ack { channel, position: Position { epoch, offset } } => {
            json!({"type": "ack", "channel": channel, "epoch": epoch, "offset": offset})
        }
        Command::Ping => json!({"type": "ping"}),
        Command::Pong => json!({"type": "pong"}),
        Command::Cancel => json!({"type": "cancel"}),
        Command::Batch { messages } => {
            let messages = (parts.messages)(messages.clone());
            let mut value = json!({"type": "batch", "count": messages.len()});
            if messages.len() <= 4 {
                value["messages"] = json!(messages);
            }
            value
        }
        Command::Call(Call { is_command, method, params, .. }) => {
            let mut value = json!({"type": if *is_command { "command" } else { "query" }, "method": method});
            put(&mut value, "params", params.map(span));
            value
        }
        Command::Register { capabilities } => json!({"type": "register", "capabilities": capabilities}),
        Command::Response { call, result, error, partial, .. } => {
            let mut value = json!({"type": "response", "call": call});
            put(&mut value, "result", result.map(span));
            put(&mut value, "error", error.map(span));
            put(&mut value, "partial", partial.then_some(true));
            value
        }
    }
}

fn neutral_subscribe(it: &Subscribe<'_>) -> Value {
    let mut value = json!({"type": "subscribe", "channels": it.channels.as_slice()});
    put(&mut value, "events", (!it.events.is_empty()).then_some(json!(it.events)));
    put(&mut value, "recover", it.recover.as_ref().map(|at| json!([at.epoch, at.offset])));
    put(&mut value, "history", it.history);
    put(&mut value, "presence", it.presence.then_some(true));
    put(&mut value, "ack", it.ack.then_some(true));
    put(&mut value, "max_rate", it.max_rate);
    value
}

fn neutral_publish(it: &Publish<'_>, parts: &Parts<'_>) -> Value {
    let priority = it.priority.map(|priority| match priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High => "high",
        Priority::Critical => "critical",
    });
    let mut value = json!({"type": "publish", "payload": (parts.span)(it.payload.bytes())});
    match &it.target {
        Target::Channel(channel) => value["channel"] = json!(channel),
        Target::Participants(Channels::One(one)) => value["to"] = json!([one]),
        Target::Participants(Channels::Many(many)) => value["to"] = json!(many),
    }
    put(&mut value, "event", it.event.as_deref());
    put(&mut value, "priority", priority);
    put(&mut value, "store", it.store);
    put(&mut value, "echo", (!it.echo).then_some(false));
    put(&mut value, "timestamp", it.timestamp);
    put(&mut value, "idempotency_key", it.idempotency_key.as_deref());
    put(&mut value, "receipt", it.receipt.then_some(true));
    value
}

pub(crate) fn put(value: &mut Value, key: &str, member: Option<impl Into<Value>>) {
    if let Some(member) = member {
        value[key] = member.into();
    }
}

section_tests!(messages, Message);
