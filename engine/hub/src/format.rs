//! What is kept once for each encoding, and which encodings are wanted where.

pub use corecast_protocol::envelope::Format;

use crate::effect::ShardSet;

/// Both encodings, in the order in which they are served.
pub(crate) const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

/// The one that this is not.
#[inline(always)]
pub(crate) fn other(format: Format) -> Format {
    match format {
        Format::Json => Format::MessagePack,
        Format::MessagePack => Format::Json,
    }
}

/// One of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PerFormat<T> {
    /// For JSON.
    pub json: T,
    /// For MessagePack.
    pub msgpack: T,
}

impl<T> PerFormat<T> {
    /// That of one encoding.
    #[inline(always)]
    pub fn of(&self, format: Format) -> &T {
        match format {
            Format::Json => &self.json,
            Format::MessagePack => &self.msgpack,
        }
    }

    /// That of one encoding, to be changed.
    #[inline(always)]
    pub fn of_mut(&mut self, format: Format) -> &mut T {
        match format {
            Format::Json => &mut self.json,
            Format::MessagePack => &mut self.msgpack,
        }
    }
}

/// Some of the encodings.
pub type Formats = PerFormat<bool>;

impl Formats {
    /// This one alone.
    pub fn only(format: Format) -> Self {
        let mut formats = Self::default();
        *formats.of_mut(format) = true;
        formats
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        !self.json && !self.msgpack
    }
}

/// The shards that want each encoding.
pub(crate) type Wanted = PerFormat<ShardSet>;

impl Wanted {
    /// All that want any.
    #[inline(always)]
    pub(crate) fn shards(self) -> ShardSet {
        ShardSet(self.json.0 | self.msgpack.0)
    }

    #[inline(always)]
    pub(crate) fn is_empty(self) -> bool {
        self.shards().is_empty()
    }

    /// Whether one of them is wanted somewhere, and the other one somewhere too.
    #[inline(always)]
    pub(crate) fn is_mixed(self) -> bool {
        !self.json.is_empty() && !self.msgpack.is_empty()
    }

    /// What one shard wants.
    pub(crate) fn by(self, shard: u16) -> Formats {
        Formats { json: self.json.contains(shard), msgpack: self.msgpack.contains(shard) }
    }

    pub(crate) fn insert(&mut self, shard: u16, format: Format) {
        self.of_mut(format).insert(shard);
    }

    /// The shard does not want these any more.
    pub(crate) fn remove(&mut self, shard: u16, formats: Formats) {
        for format in FORMATS {
            if *formats.of(format) {
                self.of_mut(format).remove(shard);
            }
        }
    }

    /// All that others want, too.
    #[inline(always)]
    pub(crate) fn extend(&mut self, others: Self) {
        self.json.0 |= others.json.0;
        self.msgpack.0 |= others.msgpack.0;
    }

    /// The shards that want the same.
    #[inline(always)]
    pub(crate) fn apart(self) -> [(ShardSet, Formats); 3] {
        let (json, msgpack) = (self.json.0, self.msgpack.0);
        [
            (ShardSet(json & !msgpack), Formats { json: true, msgpack: false }),
            (ShardSet(json & msgpack), Formats { json: true, msgpack: true }),
            (ShardSet(msgpack & !json), Formats { json: false, msgpack: true }),
        ]
    }
}
