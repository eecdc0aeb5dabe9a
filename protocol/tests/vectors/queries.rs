//! `queries.json`: parameters of the hub's own queries, and what they ask for, in both encodings.

use corecast_protocol::envelope::query::{HistoryQuery, PresenceQuery};
use corecast_protocol::envelope::{Format, transcode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::commands::put;
use crate::runner::{Case, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    query: String,
    params: Option<String>,
    asks: Option<Value>,
    refused: Option<String>,
}

impl Query {
    fn read(&self, format: Format, params: Option<&[u8]>) -> Result<Value, String> {
        match self.query.as_str() {
            "history" => HistoryQuery::read(format, params).map(|it| {
                let mut value = json!({"channel": it.channel});
                put(&mut value, "limit", it.limit);
                put(&mut value, "since", it.since.map(|at| json!([at.epoch, at.offset])));
                put(&mut value, "backward", it.backward.then_some(true));
                value
            }),
            "presence" => PresenceQuery::read(format, params).map(|it| {
                let mut value = json!({"channel": it.channel});
                put(&mut value, "limit", it.limit);
                put(&mut value, "after", it.after.as_deref());
                put(&mut value, "count_only", it.count_only.then_some(true));
                value
            }),
            _ => Err("no such query"),
        }
        .map_err(str::to_owned)
    }

    fn check_in(&self, format: Format, params: Option<&[u8]>) -> Result<(), String> {
        match (self.read(format, params), &self.asks, &self.refused) {
            (Ok(asked), Some(expected), None) => same(&format!("{format:?}"), &asked, expected),
            (Err(why), None, Some(mentioned)) => {
                same(&format!("{format:?}, {mentioned:?} in {why:?}"), why.contains(mentioned), true)
            }
            (got, ..) => Err(format!("{format:?}: got {got:?}")),
        }
    }
}

impl Case for Query {
    const FILE: &'static str = "queries";
    const SECTION: &'static str = "cases";
    const EXPECTATIONS: &'static [&'static str] = &["asks", "refused"];

    fn check(&self) -> Result<(), String> {
        let params = self.params.as_deref().map(str::as_bytes);
        let packed = params.map(|params| {
            let mut out = Vec::new();
            transcode(Format::Json, params, &mut out);
            out
        });
        self.check_in(Format::Json, params)?;
        self.check_in(Format::MessagePack, packed.as_deref())
    }
}

section_tests!(queries, Query);

/// What is no object by itself is refused, whoever passes it on.
#[test]
fn what_is_cut_off_or_followed_by_more_is_refused() {
    for format in [Format::Json, Format::MessagePack] {
        let text = br#"{"channel":"conversation:42","limit":7}"#;
        let mut whole = text.to_vec();
        if format == Format::MessagePack {
            whole.clear();
            transcode(Format::Json, text, &mut whole);
        }
        assert!(HistoryQuery::read(format, Some(&whole)).is_ok());
        for length in 0..whole.len() {
            assert!(
                HistoryQuery::read(format, Some(&whole[..length])).is_err(),
                "{format:?}, {length} bytes"
            );
        }
        whole.push(b' ');
        assert!(HistoryQuery::read(format, Some(&whole)).is_err(), "{format:?}, one more");
    }
    assert!(PresenceQuery::read(Format::Json, Some(b"{\"channel\":\"\xff\"}")).is_err(), "not UTF-8");
}
