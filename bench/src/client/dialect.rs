//! How a client talks: the encoding, compression, and what its messages hold. Asked for as flags for all servers of a
//! run, or with words behind one server's name.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use corecast_protocol::envelope::Format;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args, serde::Serialize)]
pub(crate) struct Dialect {
    /// The encoding of messages, both ways. For one server of a comparison only: @msgpack behind its name
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Encoding,
    /// What messages hold: padding (one letter, --size bytes), random (--size bytes that can't be compressed), or
    /// real ones of a chat (some 300 bytes) or of metrics (20 numbers)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) payload: Payload,
    /// Offer permessage-deflate, and fail where it is not accepted. For one server only: @deflate behind its name
    #[arg(long = "deflate")]
    pub(crate) is_deflated: bool,
}

/// The encoding of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Json,
    Msgpack,
}

/// What messages hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Payload {
    #[default]
    Padding,
    Chat,
    Metrics,
    Random,
}

impl Dialect {
    /// A server's name without the words that are about its client, and this dialect with them.
    pub(crate) fn of(mut self, server: &str) -> Result<(String, Self)> {
        let (asked, words): (Vec<&str>, Vec<&str>) =
            server.split_whitespace().partition(|it| it.starts_with('@'));
        for word in asked {
            match word {
                "@deflate" => self.is_deflated = true,
                "@msgpack" => self.format = Encoding::Msgpack,
                "@json" => self.format = Encoding::Json,
                _ => bail!("{word} is not known: there are @deflate, @msgpack and @json"),
            }
        }
        Ok((words.join(" "), self))
    }

    pub(crate) fn format(self) -> Format {
        match self.format {
            Encoding::Json => Format::Json,
            Encoding::Msgpack => Format::MessagePack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_behind_a_server_are_the_clients() {
        let plain = Dialect::default();
        let (server, it) = plain.of("corecast @deflate --driver epoll @msgpack").expect("known words");
        assert_eq!(server, "corecast --driver epoll");
        assert_eq!(it, Dialect { format: Encoding::Msgpack, is_deflated: true, ..plain });
        assert_eq!(it.of("x @json").expect("known").1.format, Encoding::Json);
        assert!(plain.of("corecast @zip").is_err());
    }
}
