//! Resume tokens: 128 random bits that nobody can guess, whoever saw others.
//!
//! They are found by hash and compared as wholes, so that how long it takes tells nothing; they are shown to their
//! client alone, and never where somebody reads along: `Debug` keeps them to itself.

use std::fmt;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// The letters of base64url (RFC 4648 section 5).
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Letters of a token: six bits each, four of the last one.
const LENGTH: usize = 22;

/// A resume token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

impl Token {
    /// As it goes from shard to shard.
    pub(crate) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From another shard.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As its client is told.
    pub(crate) fn text(self, buffer: &mut [u8; LENGTH]) -> &str {
        let number = u128::from_be_bytes(self.0);
        for (at, letter) in buffer.iter_mut().enumerate() {
            let shift = 128 - 6 * (at as u32 + 1).min(21);
            let six = if at < LENGTH - 1 { number >> shift } else { number << 4 };
            *letter = LETTERS[(six & 63) as usize];
        }
        std::str::from_utf8(buffer).expect("letters and digits are UTF-8")
    }

    /// What a client presents; `None` if it never was a token.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let letters: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
        let mut number: u128 = 0;
        for (at, letter) in letters.iter().enumerate() {
            let six = LETTERS.iter().position(|it| it == letter)? as u128;
            match at {
                21 if six & 15 != 0 => return None,
                21 => number = number << 2 | six >> 4,
                _ => number = number << 6 | six,
            }
        }
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

/// The tokens of one session: the latest, and the one that was presented for it, until the client is known to have the
/// latest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tokens {
    pub(crate) current: Token,
    pub(crate) former: Option<Token>,
}

/// Makes tokens: ChaCha20 (RFC 8439) keyed with the node's secret, a stream per shard.
pub(crate) struct Mint(ChaCha20Rng);

impl Mint {
    pub(crate) fn new(secret: &[u8; 32], shard: u16) -> Self {
        let mut stream = ChaCha20Rng::from_seed(*secret);
        stream.set_stream(shard.into());
        Self(stream)
    }

    pub(crate) fn next(&mut self) -> Token {
        let mut bytes = [0; 16];
        self.0.fill_bytes(&mut bytes);
        Token(bytes)
    }
}

impl fmt::Debug for Mint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Mint(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn tokens_survive_as_text() {
        let mut mint = Mint::new(&[7; 32], 0);
        let special = [Token([0; 16]), Token([255; 16])];
        for token in special.into_iter().chain((0..1000).map(|_| mint.next())) {
            let mut buffer = [0; LENGTH];
            let text = token.text(&mut buffer);
            assert_eq!(Token::parse(text), Some(token), "{text}");
        }
        assert_eq!(Token([255; 16]).text(&mut [0; LENGTH]), "_____________________w");
        assert_eq!(Token([0; 16]).text(&mut [0; LENGTH]), "AAAAAAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn what_was_never_a_token_is_none() {
        let good = "AAAAAAAAAAAAAAAAAAAAAA";
        assert!(Token::parse(good).is_some());
        for text in
            ["", "A", &good[1..], &format!("{good}A"), "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAA+AAAAAAAAAA"]
        {
            assert_eq!(Token::parse(text), None, "{text}");
        }
        assert_eq!(Token::parse("AAAAAAAAAAAAAAAAAAAAé"), None);
    }

    #[test]
    fn every_shard_and_every_secret_makes_its_own() {
        let mut seen = HashSet::new();
        for secret in [[0; 32], [1; 32]] {
            for shard in 0..4 {
                let mut mint = Mint::new(&secret, shard);
                assert!((0..1000).all(|_| seen.insert(mint.next())));
            }
        }
        assert_eq!(Mint::new(&[3; 32], 1).next(), Mint::new(&[3; 32], 1).next(), "a seed can be run again");
    }

    #[test]
    fn nobody_reads_along() {
        let token = Mint::new(&[7; 32], 0).next();
        let tokens = Tokens { current: token, former: Some(token) };
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(!format!("{tokens:?}").contains(token.text(&mut [0; LENGTH])));
    }
}
