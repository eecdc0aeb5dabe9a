//! Lists of participants as they travel in records: names one behind the other, each with its length in front.

/// Some participants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Names<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> Names<'a> {
    /// Nobody.
    pub const NONE: Self = Self { bytes: &[], count: 0 };

    /// Appends one to a list in the making.
    pub fn push(out: &mut Vec<u8>, name: &str) {
        let length = u16::try_from(name.len()).expect("a participant's name has at most some 300 bytes");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }

    /// Reads a list; none if the bytes are no list.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut count = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (name, after) = split(rest)?;
            std::str::from_utf8(name).ok()?;
            rest = after;
            count += 1;
        }
        Some(Self { bytes, count })
    }

    /// As it is written.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them, in order.
    pub fn iter(&self) -> Iter<'a> {
        Iter { rest: self.bytes, left: self.count as usize }
    }
}

/// The names of a list.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (name, rest) = split(self.rest)?;
        self.rest = rest;
        self.left -= 1;
        Some(std::str::from_utf8(name).expect("it was read before"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_and_what_is_none_is_told_apart() {
        let names = ["ann", "", "demo:bob", "\u{1f600}"];
        let mut bytes = Vec::new();
        for name in names {
            Names::push(&mut bytes, name);
        }
        let read = Names::read(&bytes).expect("it is a list");
        assert_eq!((read.len(), read.iter().len(), read.bytes()), (4, 4, bytes.as_slice()));
        assert_eq!(read.iter().collect::<Vec<_>>(), names);
        assert_eq!(Names::read(&[]), Some(Names::NONE));
        assert_eq!(Names::read(&bytes[..bytes.len() - 1]), None, "a name is cut");
        assert_eq!(Names::read(&bytes[..1]), None, "a length is cut");
        assert_eq!(Names::read(&[1, 0, 0xff]), None, "no UTF-8");
    }
}
