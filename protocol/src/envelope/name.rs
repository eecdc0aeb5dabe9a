//! Names of channels, patterns and participants (the wire contract, section 6).

use std::fmt;

/// Bytes of a name at most.
pub const NAME_BYTES_MAX: usize = 255;

/// The inbox of the connection's own participant.
pub const INBOX: &str = "@me";

/// The channel that everybody gets.
pub const SYSTEM: &str = "system";

/// The namespace of names without a colon.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Why a name is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// Nothing.
    Empty,
    /// More than 255 bytes.
    TooLong,
    /// White space, `*`, a control or a bidirectional-control character.
    Character(char),
    /// A namespace is `[a-z][a-z0-9_-]{0,31}`.
    Namespace,
    /// Nothing behind the colon.
    NoRest,
    /// `*` alone, or elsewhere than at the end.
    Pattern,
    /// Not a channel: begins with `@`.
    Reserved,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the name is empty"),
            Self::TooLong => write!(f, "a name has at most {NAME_BYTES_MAX} bytes"),
            Self::Character(char) => write!(f, "a name has no character U+{:04X}", u32::from(*char)),
            Self::Namespace => f.write_str("before the colon: [a-z][a-z0-9_-]{0,31}"),
            Self::NoRest => f.write_str("something must follow the colon"),
            Self::Pattern => f.write_str("a * may only end a prefix, as in agent:*"),
            Self::Reserved => f.write_str("names that begin with @ are not channels"),
        }
    }
}

/// The namespace of a valid channel name.
///
/// # Errors
/// What the name breaks.
pub fn channel(name: &str) -> Result<&str, NameError> {
    check(name)?;
    namespace(name)
}

/// The namespace of a valid pattern, and its prefix: `agent:*` is every channel that begins with `agent:`.
///
/// # Errors
/// What the pattern breaks. The namespace must be complete: one rule must cover all that the pattern matches.
pub fn pattern(text: &str) -> Result<(&str, &str), NameError> {
    let prefix = text.strip_suffix('*').ok_or(NameError::Pattern)?;
    let (space, rest) = prefix.split_once(':').ok_or(NameError::Pattern)?;
    if prefix.contains('*') {
        return Err(NameError::Pattern);
    }
    check(prefix)?;
    check_namespace(space)?;
    debug_assert!(rest.len() < NAME_BYTES_MAX, "the whole was checked");
    Ok((space, prefix))
}

/// Whether it is meant as a pattern.
pub fn is_pattern(text: &str) -> bool {
    text.contains('*')
}

/// A participant's name: what follows the colon of `user:{id}`, and may stand behind `?as=`.
///
/// # Errors
/// What the name breaks.
pub fn participant(name: &str) -> Result<(), NameError> {
    check(name)
}

/// Whether a namespace may have this name.
pub fn is_namespace(name: &str) -> bool {
    check_namespace(name).is_ok()
}

fn namespace(name: &str) -> Result<&str, NameError> {
    match name.split_once(':') {
        Some((_, "")) => Err(NameError::NoRest),
        Some((space, _)) => check_namespace(space).map(|()| space),
        None if name == SYSTEM => Ok(SYSTEM),
        None if name.starts_with('@') => Err(NameError::Reserved),
        None => Ok(DEFAULT_NAMESPACE),
    }
}

fn check_namespace(space: &str) -> Result<(), NameError> {
    let is_tail =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    match space.as_bytes() {
        [b'a'..=b'z', tail @ ..] if tail.len() <= 31 && tail.iter().copied().all(is_tail) => Ok(()),
        _ => Err(NameError::Namespace),
    }
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    // Nearly all names are plain ASCII: one pass over bytes decides those.
    if name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*') {
        return Ok(());
    }
    match name.chars().find(|char| is_forbidden(*char)) {
        Some(char) => Err(NameError::Character(char)),
        None => Ok(()),
    }
}

fn is_forbidden(char: char) -> bool {
    let is_bidirectional = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    char == '*' || char.is_whitespace() || char.is_control() || is_bidirectional
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("room", Ok("default")),
            ("system", Ok("system")),
            ("conversation:42", Ok("conversation")),
            ("a:b:c", Ok("a")),
            ("räume:1", Err(NameError::Namespace)),
            ("conversation:räume", Ok("conversation")),
            ("", Err(NameError::Empty)),
            (":x", Err(NameError::Namespace)),
            ("A:x", Err(NameError::Namespace)),
            ("a:", Err(NameError::NoRest)),
            ("@me", Err(NameError::Reserved)),
            ("a b", Err(NameError::Character(' '))),
            ("a*", Err(NameError::Character('*'))),
            ("a\0", Err(NameError::Character('\0'))),
            ("a\u{202e}b", Err(NameError::Character('\u{202e}'))),
            ("a\u{a0}b", Err(NameError::Character('\u{a0}'))),
        ] {
            assert_eq!(channel(name), expected, "{name:?}");
        }
        assert_eq!(channel(&"x".repeat(255)), Ok("default"));
        assert_eq!(channel(&"x".repeat(256)), Err(NameError::TooLong));
        assert_eq!(channel(&format!("{}:x", "a".repeat(32))).map(str::len), Ok(32));
        assert_eq!(channel(&format!("{}:x", "a".repeat(33))), Err(NameError::Namespace));
    }

    #[test]
    fn patterns() {
        assert_eq!(pattern("agent:*"), Ok(("agent", "agent:")));
        assert_eq!(pattern("agent:a*"), Ok(("agent", "agent:a")));
        for bad in ["*", "agent*", "agent:*a", "agent:**", "agent:", ":*", "@*"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
