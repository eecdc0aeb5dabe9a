//! An object being written member by member, in either encoding.

use crate::envelope::command::RequestId;
use crate::envelope::special::are_plain;
use crate::envelope::{Format, pack, text, time};

/// In JSON its members are divided by commas and it is closed; in MessagePack its first byte says how many members
/// there are, of which the hub's objects never have more than the 15 that fit there.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
    start: usize,
}

impl<'a> Object<'a> {
    #[inline]
    fn new(out: &'a mut Vec<u8>, format: Format) -> Self {
        let start = out.len();
        out.push(match format {
            Format::Json => b'{',
            Format::MessagePack => pack::FIXMAP,
        });
        Self { out, format, start }
    }

    /// An object with its first member, `type`.
    #[inline]
    pub(super) fn of_type(out: &'a mut Vec<u8>, format: Format, name: &str) -> Self {
        let mut object = Self::new(out, format);
        object.plain("type", name.as_bytes());
        object
    }

    /// An object as a member, to be ended before this one goes on.
    pub(super) fn object(&mut self, key: &str) -> Object<'_> {
        self.key(key);
        Object::new(self.out, self.format)
    }

    /// Bytes written so far.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        (self.out.len() - self.start) as u32
    }

    #[inline]
    pub(super) fn key(&mut self, key: &str) {
        match self.format {
            Format::Json => {
                if self.out.len() > self.start + 1 {
                    self.out.push(b',');
                }
                self.out.push(b'"');
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            Format::MessagePack => {
                self.out[self.start] += 1;
                debug_assert!(self.out[self.start] <= pack::FIXMAP_LAST, "more than 15 members");
                pack::text(key.as_bytes(), self.out);
            }
        }
    }

    /// A value in the object's encoding.
    #[inline]
    pub(super) fn raw(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.out.extend_from_slice(value);
    }

    #[inline]
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text_value(value);
    }

    fn text_value(&mut self, value: &str) {
        Item { out: self.out, format: self.format }.text(value);
    }

    /// A text in which nothing needs escaping.
    #[inline]
    pub(super) fn plain(&mut self, key: &str, value: &[u8]) {
        debug_assert!(are_plain(value), "it was said to be plain");
        self.key(key);
        match self.format {
            Format::Json => {
                self.out.push(b'"');
                self.out.extend_from_slice(value);
                self.out.push(b'"');
            }
            Format::MessagePack => pack::text(value, self.out),
        }
    }

    #[inline]
    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.number_value(value);
    }

    /// The value of a member whose key is there already.
    #[inline]
    pub(super) fn number_value(&mut self, value: u64) {
        match self.format {
            Format::Json => self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            Format::MessagePack => pack::unsigned(value, self.out),
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        match self.format {
            Format::Json => self.out.extend_from_slice(if value { b"true" } else { b"false" }),
            Format::MessagePack => self.out.push(pack::FALSE + u8::from(value)),
        }
    }

    /// A list as a member; each item is written by `write`.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Item<'_>, T),
    ) {
        self.key(key);
        let count = items.len();
        match self.format {
            Format::Json => self.out.push(b'['),
            Format::MessagePack => pack::array_header(count, self.out),
        }
        let mut written = 0;
        for item in items {
            if self.format == Format::Json && written > 0 {
                self.out.push(b',');
            }
            write(&mut Item { out: self.out, format: self.format }, item);
            written += 1;
        }
        debug_assert_eq!(written, count, "MessagePack's header says how many items follow");
        if self.format == Format::Json {
            self.out.push(b']');
        }
    }

    /// A list of texts as a member.
    pub(super) fn texts<'t>(&mut self, key: &str, texts: impl ExactSizeIterator<Item = &'t str>) {
        self.list(key, texts, |item, text| item.text(text));
    }

    /// A list of values in the object's encoding as a member.
    pub(super) fn values(&mut self, key: &str, values: &[&[u8]]) {
        self.list(key, values.iter(), |item, value| item.out.extend_from_slice(value));
    }

    pub(super) fn id(&mut self, id: Option<RequestId<'_>>) {
        match id {
            None => {}
            Some(RequestId::Number(number)) => self.number("id", number),
            Some(RequestId::Plain(text)) => self.text("id", text),
            Some(RequestId::Text(contents)) => {
                self.key("id");
                match self.format {
                    Format::Json => {
                        self.out.push(b'"');
                        self.out.extend_from_slice(contents.as_bytes());
                        self.out.push(b'"');
                    }
                    Format::MessagePack => pack::text(text::unescape(contents).as_bytes(), self.out),
                }
            }
        }
    }

    pub(super) fn time(&mut self, key: &str, unix_ms: u64, is_iso: bool) {
        if !is_iso {
            return self.number(key, unix_ms);
        }
        self.key(key);
        match self.format {
            Format::Json => {
                self.out.push(b'"');
                time::write_iso(unix_ms, self.out);
                self.out.push(b'"');
            }
            Format::MessagePack => pack::iso_time(unix_ms, self.out),
        }
    }

    pub(super) fn end(self) {
        if self.format == Format::Json {
            self.out.push(b'}');
        }
    }
}

/// One item of a list that is being written.
pub(super) struct Item<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
}

impl Item<'_> {
    #[inline]
    pub(super) fn text(&mut self, value: &str) {
        match self.format {
            Format::Json => {
                self.out.push(b'"');
                text::escape(value, self.out);
                self.out.push(b'"');
            }
            Format::MessagePack => pack::text(value.as_bytes(), self.out),
        }
    }

    /// An object, to be ended before the list goes on.
    pub(super) fn object(&mut self) -> Object<'_> {
        Object::new(self.out, self.format)
    }
}
