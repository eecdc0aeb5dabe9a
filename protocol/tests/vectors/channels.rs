//! `channels.json`: names of channels, patterns and participants.

use corecast_protocol::envelope::name::{self, NameError};
use serde::Deserialize;

use crate::runner::{Bytes, Case, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Channel {
    text: Bytes,
    namespace: Option<String>,
    invalid: Option<String>,
}

impl Case for Channel {
    const FILE: &'static str = "channels";
    const SECTION: &'static str = "channels";
    const EXPECTATIONS: &'static [&'static str] = &["namespace", "invalid"];

    fn check(&self) -> Result<(), String> {
        let text = self.text.read_text()?;
        let (namespace, invalid) = match name::channel(&text) {
            Ok(namespace) => (Some(namespace.to_owned()), None),
            Err(error) => (None, Some(reason(error).to_owned())),
        };
        same("namespace", &namespace, &self.namespace)?;
        same("invalid", &invalid, &self.invalid)
    }
}

fn reason(error: NameError) -> &'static str {
    match error {
        NameError::Empty => "empty",
        NameError::TooLong => "too_long",
        NameError::Character(_) => "character",
        NameError::Namespace => "namespace",
        NameError::NoRest => "no_rest",
        NameError::Pattern => "pattern",
        NameError::Reserved => "reserved",
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pattern {
    text: Bytes,
    namespace: Option<String>,
    prefix: Option<String>,
    #[serde(default)]
    invalid: bool,
}

impl Case for Pattern {
    const FILE: &'static str = "channels";
    const SECTION: &'static str = "patterns";
    const EXPECTATIONS: &'static [&'static str] = &["namespace", "prefix", "invalid"];

    fn check(&self) -> Result<(), String> {
        let text = self.text.read_text()?;
        let found = name::pattern(&text).ok();
        let (namespace, prefix) = found.map(|(space, prefix)| (space.to_owned(), prefix.to_owned())).unzip();
        same("invalid", found.is_none(), self.invalid)?;
        same("namespace", &namespace, &self.namespace)?;
        same("prefix", &prefix, &self.prefix)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Participant {
    text: Bytes,
    valid: bool,
}

impl Case for Participant {
    const FILE: &'static str = "channels";
    const SECTION: &'static str = "participants";
    const EXPECTATIONS: &'static [&'static str] = &["valid"];

    fn check(&self) -> Result<(), String> {
        same("valid", name::participant(&self.text.read_text()?).is_ok(), self.valid)
    }
}

section_tests!(names, Channel);
section_tests!(patterns, Pattern);
section_tests!(participants, Participant);
