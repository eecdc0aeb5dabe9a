//! UTF-8 checked as it arrives: a message that can't become valid any more is refused at once
//! (RFC 6455 section 8.1).

/// The state between two pieces of a text message: the bytes of a character that was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Incremental {
    pending: [u8; 3],
    len: u8,
}

/// The text can't be valid UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Invalid;

impl Incremental {
    /// Checks the next piece.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Invalid> {
        while self.len > 0 && !bytes.is_empty() {
            let mut whole = [0; 4];
            let len = usize::from(self.len);
            whole[..len].copy_from_slice(&self.pending[..len]);
            whole[len] = bytes[0];
            bytes = &bytes[1..];
            match std::str::from_utf8(&whole[..=len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() && len < 3 => {
                    self.pending[len] = whole[len];
                    self.len += 1;
                }
                Err(_) => return Err(Invalid),
            }
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let rest = &bytes[error.valid_up_to()..];
                self.pending[..rest.len()].copy_from_slice(rest);
                self.len = rest.len() as u8;
                Ok(())
            }
            Err(_) => Err(Invalid),
        }
    }

    /// The message ends here: no character may be cut.
    pub(crate) fn finish(&mut self) -> Result<(), Invalid> {
        if std::mem::take(self).len == 0 { Ok(()) } else { Err(Invalid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(bytes: &[u8], cuts: &[usize]) -> Result<(), Invalid> {
        let mut state = Incremental::default();
        let mut rest = bytes;
        for cut in cuts {
            let (piece, after) = rest.split_at(cut % (rest.len() + 1));
            state.push(piece)?;
            rest = after;
        }
        state.push(rest)?;
        state.finish()
    }

    #[test]
    fn a_hopeless_start_is_refused_before_the_end() {
        // U+D800 as bytes and a sequence above U+10FFFF: the second byte decides.
        for start in [&[0xed, 0xa0][..], &[0xf4, 0x90], &[0xc0], &[0xff]] {
            assert_eq!(Incremental::default().push(start), Err(Invalid), "{start:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_verdict_of_the_whole(
            text in ".{0,12}", noise in proptest::collection::vec(any::<u8>(), 0..3),
            cuts in proptest::collection::vec(0usize..20, 0..5),
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(noise);
            prop_assert_eq!(pieces(&bytes, &cuts).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
