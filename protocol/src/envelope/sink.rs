//! Where bytes are written: into a buffer, or nowhere, to learn how many there are.

/// Takes bytes.
pub(crate) trait Sink {
    /// Behind all bytes before.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Keeps only how many bytes there were.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Count(pub(crate) usize);

impl Sink for Count {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}
