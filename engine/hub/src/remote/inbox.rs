//! Records of inboxes, written and read: tags 70 to 79.

use corecast_protocol::envelope::command::RequestId;

use crate::effect::ConnKey;
use crate::format::Format;
use crate::remote::read::Input;
use crate::remote::write::{
    bytes, format_byte, key, position, request_id, write_extent, write_page, write_past,
};
use crate::remote::{Epoch, Extent, Malformed, Page, Past};

/// Who asks a participant's home for something of its inbox, and for whom the answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reader<'a> {
    /// One of its connections.
    pub conn: ConnKey,
    /// The participant.
    pub participant: &'a str,
    /// What the connection is sent.
    pub format: Format,
}

/// What a participant's home is asked or told about its inbox.
#[expect(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InboxAsk<'a> {
    /// A connection that is catching up wants what follows this position.
    Fetch { reader: Reader<'a>, serial: u32, epoch: Epoch, after: u64 },
    /// A connection asks for the position, and perhaps for some of the past.
    Subscribe { reader: Reader<'a>, id: Option<RequestId<'a>>, past: Past },
    /// A connection asks what is kept.
    History { reader: Reader<'a>, id: Option<RequestId<'a>>, extent: Extent },
    /// A connection got what was kept up to an offset, or all of it.
    Seen { participant: &'a str, epoch: Epoch, offset: u64, is_all: bool },
}

/// What it answers.
#[expect(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InboxAnswer<'a> {
    /// To `Fetch`.
    Replay { conn: ConnKey, serial: u32, page: Page<'a> },
    /// To `Subscribe`.
    Subscribed { conn: ConnKey, id: Option<RequestId<'a>>, page: Page<'a> },
}

impl<'a> InboxAsk<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Fetch { reader, serial, epoch, after } => {
                out.push(70);
                write_reader(out, &reader);
                out.extend_from_slice(&serial.to_le_bytes());
                position(out, epoch, after);
            }
            Self::Subscribe { reader, id, past } => {
                out.push(71);
                write_reader(out, &reader);
                request_id(out, id);
                write_past(out, &past);
            }
            Self::History { reader, id, extent } => {
                out.push(72);
                write_reader(out, &reader);
                request_id(out, id);
                write_extent(out, &extent);
            }
            Self::Seen { participant, epoch, offset, is_all } => {
                out.push(73);
                bytes(out, participant.as_bytes());
                position(out, epoch, offset);
                out.push(u8::from(is_all));
            }
        }
    }

    pub(super) fn decode(tag: u8, it: &mut Input<'a>) -> Result<Self, Malformed> {
        Ok(match tag {
            70 => {
                Self::Fetch { reader: reader(it)?, serial: it.u32()?, epoch: it.epoch()?, after: it.u64()? }
            }
            71 => Self::Subscribe { reader: reader(it)?, id: it.id()?, past: it.past()? },
            72 => Self::History { reader: reader(it)?, id: it.id()?, extent: it.extent()? },
            73 => Self::Seen {
                participant: it.text()?,
                epoch: it.epoch()?,
                offset: it.u64()?,
                is_all: it.flag()?,
            },
            _ => return Err(Malformed),
        })
    }
}

impl<'a> InboxAnswer<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Replay { conn, serial, page } => {
                out.push(70);
                key(out, conn);
                out.extend_from_slice(&serial.to_le_bytes());
                write_page(out, &page);
            }
            Self::Subscribed { conn, id, page } => {
                out.push(71);
                key(out, conn);
                request_id(out, id);
                write_page(out, &page);
            }
        }
    }

    pub(super) fn decode(tag: u8, it: &mut Input<'a>) -> Result<Self, Malformed> {
        Ok(match tag {
            70 => Self::Replay { conn: it.key()?, serial: it.u32()?, page: it.page()? },
            71 => Self::Subscribed { conn: it.key()?, id: it.id()?, page: it.page()? },
            _ => return Err(Malformed),
        })
    }
}

fn write_reader(out: &mut Vec<u8>, it: &Reader<'_>) {
    key(out, it.conn);
    bytes(out, it.participant.as_bytes());
    out.push(format_byte(it.format));
}

fn reader<'a>(it: &mut Input<'a>) -> Result<Reader<'a>, Malformed> {
    Ok(Reader { conn: it.key()?, participant: it.text()?, format: it.format()? })
}
