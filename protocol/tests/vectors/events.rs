//! `events.json`: what the hub sends, as it is written, and its variants.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::Format;
use corecast_protocol::envelope::command::{Priority, RequestId};
use corecast_protocol::envelope::event::{self, Established, Message};
use serde::Deserialize;

use crate::runner::{Case, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    event: String,
    given: Given,
    json: String,
    json_iso: Option<String>,
    json_pattern: Option<String>,
    json_pattern_iso: Option<String>,
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

    fn message(&self) -> Result<Message<'_>, String> {
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
            payload: self.payload.as_bytes(),
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
            resume_window_ms: self.resume_window_ms,
            heartbeat_interval_ms: self.heartbeat_interval_ms,
            max_message_bytes: self.max_message_bytes,
            version: &self.version,
        }
    }
}

impl Event {
    fn write(&self, is_time_iso: bool) -> Result<Vec<u8>, String> {
        let (it, id) = (&self.given, self.given.id()?);
        let mut out = Vec::new();
        match self.event.as_str() {
            "connection_established" => {
                event::connection_established(&mut out, Format::Json, &it.established())
            }
            "subscribed" => {
                let position = it.epoch.as_deref().map(|epoch| (epoch.as_bytes(), it.offset));
                event::subscribed(&mut out, Format::Json, id, it.channel(), position);
            }
            "unsubscribed" => {
                let why = it.code.is_some().then(|| it.code()).transpose()?;
                event::unsubscribed(
                    &mut out,
                    Format::Json,
                    id,
                    it.channel(),
                    why.map(|code| (code, it.reason.as_str())),
                );
            }
            "error" | "request_error" => event::error(
                &mut out,
                Format::Json,
                id,
                it.channel.as_deref(),
                it.code()?,
                &it.reason,
                it.details.as_deref().map(str::as_bytes),
            ),
            "published" => {
                event::published(&mut out, Format::Json, id.ok_or("an id is needed")?, it.epoch(), it.offset)
            }
            "response" => event::response(&mut out, Format::Json, id, it.result.as_bytes()),
            "response_error" => event::response_error(&mut out, Format::Json, id, it.code()?, &it.reason),
            "ping" => event::ping(&mut out, Format::Json, it.timestamp, is_time_iso),
            "pong" => event::pong(&mut out, Format::Json, id, it.timestamp, is_time_iso),
            "reconnect" => event::reconnect(&mut out, Format::Json, &it.reason, it.after_ms),
            other => return Err(format!("no event {other}")),
        }
        Ok(out)
    }

    /// A message, written behind other bytes, as it is in a buffer of many; its variants are spliced from it.
    fn check_message(&self) -> Result<(), String> {
        let mut out = b"before".to_vec();
        let seams = event::message(&mut out, Format::Json, &self.given.message()?);
        let plain = out.split_off("before".len());
        is_written("json", &plain, Some(&self.json))?;
        let variant = |pattern: Option<&str>, iso_timestamp: Option<u64>| {
            let mut out = Vec::new();
            event::variant(&mut out, Format::Json, &plain, seams, pattern, iso_timestamp);
            out
        };
        let (pattern, iso) = (self.given.pattern.as_deref(), Some(self.given.timestamp));
        is_written("json", &variant(None, None), Some(&self.json))?;
        is_written("json_iso", &variant(None, iso), self.json_iso.as_ref())?;
        is_written("json_pattern", &variant(pattern, None), self.json_pattern.as_ref())?;
        is_written("json_pattern_iso", &variant(pattern, iso), self.json_pattern_iso.as_ref())
    }
}

fn is_written(what: &str, bytes: &[u8], expected: Option<&String>) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("{what}: {error}"))?;
    same(what, Some(text), expected.map(String::as_str))?;
    // Raw, because an id that is echoed may hold lone surrogates.
    serde_json::from_str::<&serde_json::value::RawValue>(text)
        .map(|_| ())
        .map_err(|error| format!("{what}: {error}"))
}

impl Case for Event {
    const FILE: &'static str = "events";
    const SECTION: &'static str = "cases";
    const EXPECTATIONS: &'static [&'static str] = &["json", "json_iso", "json_pattern", "json_pattern_iso"];

    fn check(&self) -> Result<(), String> {
        if self.event == "message" {
            return self.check_message();
        }
        is_written("json", &self.write(false)?, Some(&self.json))?;
        let iso = self.json_iso.as_ref().unwrap_or(&self.json);
        is_written("json_iso", &self.write(true)?, Some(iso))?;
        same("variants for patterns", (&self.json_pattern, &self.json_pattern_iso), (&None, &None))
    }
}

section_tests!(messages, Event);
