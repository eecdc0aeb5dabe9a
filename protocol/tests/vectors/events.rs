//! `events.json`: what the hub sends, as it is written, and its variants.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Priority, RequestId};
use corecast_protocol::envelope::event::{
    self, Changes, Established, HistoryAnswer, Message, PresenceAnswer, ReceiptEvent, ResumedChannel,
    Subscribed,
};
use corecast_protocol::envelope::{Format, transcode};
use serde::Deserialize;

use crate::runner::{Case, hex, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    event: String,
    given: Given,
    json: String,
    json_iso: Option<String>,
    json_pattern: Option<String>,
    json_pattern_iso: Option<String>,
    json_counted: Option<String>,
    msgpack: String,
    msgpack_iso: Option<String>,
    msgpack_pattern: Option<String>,
    msgpack_pattern_iso: Option<String>,
    msgpack_counted: Option<String>,
}

/// The fields of all events; each case names those of its own.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Given {
    id: Option<String>,
    channel: Option<String>,
    pattern: Option<String>,
    event_name: Option<String>,
    payload: String,
    publisher: Option<String>,
    epoch: Option<String>,
    offset: u64,
    timestamp: u64,
    priority: Option<String>,
    to: Option<String>,
    code: Option<String>,
    reason: String,
    details: Option<String>,
    result: String,
    client_id: String,
    participant: String,
    node: String,
    shard: u16,
    resume_window_ms: u64,
    heartbeat_interval_ms: u64,
    max_message_bytes: u64,
    version: String,
    after_ms: u64,
    skipped: u64,
    attempt: u32,
    duplicate: bool,
    recovered: bool,
    messages: Option<Vec<String>>,
    more: bool,
    resume_token: String,
    subscriptions: Vec<Resumed>,
    participants: Vec<String>,
    typing: Vec<String>,
    count: u64,
    joined: u64,
    left: u64,
    connections: u64,
    of: u64,
    delivered: u64,
    failed: u64,
}

/// One channel of a resumed session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resumed {
    channel: String,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    offset: u64,
    recovered: bool,
}

impl Given {
    fn id(&self) -> Result<Option<RequestId<'_>>, String> {
        let Some(id) = self.id.as_deref() else { return Ok(None) };
        match id.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(contents) => Ok(Some(RequestId::Text(contents))),
            None => id.parse().map(|number| Some(RequestId::Number(number))).map_err(|_| "an id".to_owned()),
        }
    }

    fn code(&self) -> Result<ErrorCode, String> {
        let named = |code: &&ErrorCode| Some(code.as_str()) == self.code.as_deref();
        ErrorCode::ALL.iter().find(named).copied().ok_or("no such error code".to_owned())
    }

    fn channel(&self) -> &str {
        self.channel.as_deref().unwrap_or_default()
    }

    fn epoch(&self) -> &[u8] {
        self.epoch.as_deref().unwrap_or_default().as_bytes()
    }

    fn message<'a>(&'a self, payload: &'a [u8]) -> Result<Message<'a>, String> {
        let priority = match self.priority.as_deref() {
            None => None,
            Some("low") => Some(Priority::Low),
            Some("normal") => Some(Priority::Normal),
            Some("high") => Some(Priority::High),
            Some("critical") => Some(Priority::Critical),
            Some(other) => return Err(format!("no priority {other}")),
        };
        Ok(Message {
            channel: self.channel(),
            event: self.event_name.as_deref(),
            payload,
            publisher: self.publisher.as_deref(),
            epoch: self.epoch(),
            offset: self.offset,
            timestamp: self.timestamp,
            priority,
            to: self.to.as_deref(),
        })
    }

    fn established(&self) -> Established<'_> {
        Established {
            client_id: &self.client_id,
            participant: &self.participant,
            node: &self.node,
            shard: self.shard,
            resume_token: &self.resume_token,
            resume_window_ms: self.resume_window_ms,
            heartbeat_interval_ms: self.heartbeat_interval_ms,
            max_message_bytes: self.max_message_bytes,
            version: &self.version,
        }
    }
}

/// Those of channels that remember.
impl Given {
    fn write_subscribed(&self, out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>) {
        let messages = self.messages(format);
        let messages: Option<Vec<&[u8]>> =
            messages.as_ref().map(|all| all.iter().map(Vec::as_slice).collect());
        event::subscribed(
            out,
            format,
            id,
            self.channel(),
            &Subscribed {
                position: self.epoch.as_deref().map(|epoch| (epoch.as_bytes(), self.offset)),
                recovered: self.recovered,
                messages: messages.as_deref(),
                more: self.more,
            },
        );
    }

    fn write_history(&self, out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>) {
        let messages = self.messages(format).unwrap_or_default();
        event::history(
            out,
            format,
            id,
            &HistoryAnswer {
                channel: self.channel(),
                epoch: self.epoch(),
                offset: self.offset,
                messages: &messages.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                more: self.more,
            },
        );
    }

    fn messages(&self, format: Format) -> Option<Vec<Vec<u8>>> {
        self.messages.as_ref().map(|all| all.iter().map(|it| in_format(format, it)).collect())
    }

    fn write_resumed(&self, out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>) {
        let subscriptions = self.subscriptions.iter().map(|it| ResumedChannel {
            channel: &it.channel,
            epoch: it.epoch.as_bytes(),
            offset: it.offset,
            recovered: it.recovered,
        });
        event::resumed(out, format, id, &self.resume_token, subscriptions);
    }

    fn write_presence(&self, out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>) {
        let answer = PresenceAnswer {
            channel: self.channel(),
            count: self.count,
            participants: self.participants.iter().map(String::as_str),
            typing: self.typing.iter().map(String::as_str),
            more: self.more,
        };
        event::presence(out, format, id, answer);
    }

    fn receipt(&self) -> ReceiptEvent<'_> {
        ReceiptEvent {
            channel: self.channel.as_deref(),
            epoch: self.epoch(),
            offset: self.offset,
            of: self.of,
            delivered: self.delivered,
            failed: self.failed,
        }
    }

    /// Events of channels that remember; whether it was one.
    fn write_remembering(
        &self,
        event: &str,
        out: &mut Vec<u8>,
        format: Format,
        id: Option<RequestId<'_>>,
    ) -> bool {
        match event {
            "subscribed" => self.write_subscribed(out, format, id),
            "resumed" => self.write_resumed(out, format, id),
            "history" => self.write_history(out, format, id),
            "join" | "leave" | "typing_expired" => {
                let participants = self.participants.iter().map(String::as_str);
                event::members(out, format, event, self.channel(), participants, self.count);
            }
            "presence_changed" => {
                event::presence_changed(out, format, self.channel(), self.count, self.joined, self.left);
            }
            "presence" => self.write_presence(out, format, id),
            "presence_count" => event::presence_count(out, format, id, self.channel(), self.count),
            "presence_stats" => {
                event::presence_stats(out, format, id, self.channel(), self.count, self.connections);
            }
            "receipt" => event::receipt(out, format, id, &self.receipt()),
            _ => return false,
        }
        true
    }
}

impl Event {
    fn write(&self, format: Format, is_time_iso: bool) -> Result<Vec<u8>, String> {
        let (it, id) = (&self.given, self.given.id()?);
        let mut out = Vec::new();
        match self.event.as_str() {
            "connection_established" => event::connection_established(&mut out, format, &it.established()),
            "unsubscribed" => {
                let why = it.code.is_some().then(|| it.code()).transpose()?;
                event::unsubscribed(
                    &mut out,
                    format,
                    id,
                    it.channel(),
                    why.map(|code| (code, it.reason.as_str())),
                );
            }
            "error" | "request_error" => event::error(
                &mut out,
                format,
                id,
                it.channel.as_deref(),
                it.code()?,
                &it.reason,
                it.details.as_deref().map(|details| in_format(format, details)).as_deref(),
            ),
            "published" => {
                let id = id.ok_or("an id is needed")?;
                event::published(&mut out, format, id, it.epoch(), it.offset, it.duplicate);
            }
            "response" => event::response(&mut out, format, id, &in_format(format, &it.result)),
            "response_error" => event::response_error(&mut out, format, id, it.code()?, &it.reason),
            "ping" => event::ping(&mut out, format, it.timestamp, is_time_iso),
            "pong" => event::pong(&mut out, format, id, it.timestamp, is_time_iso),
            "reconnect" => event::reconnect(&mut out, format, &it.reason, it.after_ms),
            other if it.write_remembering(other, &mut out, format, id) => {}
            other => return Err(format!("no event {other}")),
        }
        Ok(out)
    }

    /// What is written without a variant, with its times as ISO 8601, for a pattern, both, and with
    /// its counts.
    fn expected(&self, format: Format) -> [Option<&str>; 5] {
        match format {
            Format::Json => [
                Some(&self.json),
                self.json_iso.as_deref(),
                self.json_pattern.as_deref(),
                self.json_pattern_iso.as_deref(),
                self.json_counted.as_deref(),
            ],
            Format::MessagePack => [
                Some(&self.msgpack),
                self.msgpack_iso.as_deref(),
                self.msgpack_pattern.as_deref(),
                self.msgpack_pattern_iso.as_deref(),
                self.msgpack_counted.as_deref(),
            ],
        }
    }

    /// A message, written behind other bytes, as it is in a buffer of many; its variants are spliced from it.
    fn check_message(&self, format: Format) -> Result<(), String> {
        let [plain, plain_iso, for_pattern, for_pattern_iso, counted] = self.expected(format);
        let mut out = b"before".to_vec();
        let payload = in_format(format, &self.given.payload);
        let seams = event::message(&mut out, format, &self.given.message(&payload)?);
        let written = out.split_off("before".len());
        is_written(format, "plain", &written, plain)?;
        let name = event::name_of(format, &written, seams);
        same("the event's name", name.as_deref(), self.given.event_name.as_deref())?;
        let varied = |changes: &Changes<'_>| {
            let mut out = b"before".to_vec();
            event::variant(&mut out, format, &written, seams, changes);
            out.split_off("before".len())
        };
        let variant =
            |pattern, iso_timestamp| varied(&Changes { pattern, iso_timestamp, ..Changes::default() });
        let (pattern, iso) = (self.given.pattern.as_deref(), Some(self.given.timestamp));
        is_written(format, "spliced", &variant(None, None), plain)?;
        is_written(format, "iso", &variant(None, iso), plain_iso)?;
        is_written(format, "pattern", &variant(pattern, None), for_pattern)?;
        is_written(format, "pattern_iso", &variant(pattern, iso), for_pattern_iso)?;
        let Given { skipped, attempt, .. } = self.given;
        if (skipped, attempt) == (0, 0) {
            return same("counts", counted, None);
        }
        is_written(
            format,
            "counted",
            &varied(&Changes { pattern, iso_timestamp: None, skipped, attempt }),
            counted,
        )
    }

    fn check_in(&self, format: Format) -> Result<(), String> {
        if self.event == "message" {
            return self.check_message(format);
        }
        let [plain, iso, for_pattern, for_pattern_iso, counted] = self.expected(format);
        is_written(format, "plain", &self.write(format, false)?, plain)?;
        is_written(format, "iso", &self.write(format, true)?, iso.or(plain))?;
        same("variants of messages", (for_pattern, for_pattern_iso, counted), (None, None, None))
    }
}

/// A value that is given as JSON.
fn in_format(format: Format, json: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match format {
        Format::Json => out.extend_from_slice(json.as_bytes()),
        Format::MessagePack => transcode(Format::Json, json.as_bytes(), &mut out),
    }
    out
}

fn is_written(format: Format, what: &str, bytes: &[u8], expected: Option<&str>) -> Result<(), String> {
    let what = format!("{format:?}, {what}");
    if format == Format::MessagePack {
        return same(&what, Some(hex(bytes).as_str()), expected);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("{what}: {error}"))?;
    same(&what, Some(text), expected)?;
    // Raw, because an id that is echoed may hold lone surrogates.
    serde_json::from_str::<&serde_json::value::RawValue>(text)
        .map(|_| ())
        .map_err(|error| format!("{what}: {error}"))
}

impl Case for Event {
    const FILE: &'static str = "events";
    const SECTION: &'static str = "cases";
    const EXPECTATIONS: &'static [&'static str] = &[
        "json",
        "json_iso",
        "json_pattern",
        "json_pattern_iso",
        "json_counted",
        "msgpack",
        "msgpack_iso",
        "msgpack_pattern",
        "msgpack_pattern_iso",
        "msgpack_counted",
    ];

    fn check(&self) -> Result<(), String> {
        self.check_in(Format::Json)?;
        self.check_in(Format::MessagePack)
    }
}

section_tests!(messages, Event);
