//! Why a request can't be done, for whoever has to answer it.

use std::borrow::Cow;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::name;

use crate::hub::Hub;
use crate::rules::Denied;

/// Namespaces that an error names: an answer must not grow with the configuration.
const NAMED_MAX: usize = 8;

/// Why a request can't be done.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) why: Cow<'static, str>,
}

impl Refused {
    pub(crate) fn new(code: ErrorCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self { code, why: why.into() }
    }

    pub(crate) fn name(error: name::NameError) -> Self {
        Self::new(ErrorCode::InvalidChannel, error.to_string())
    }

    /// A payload that the namespace doesn't take.
    #[cold]
    pub(crate) fn payload(space: &str, bytes_max: u64, bytes: u64) -> Self {
        let why = format!("a payload in {space} has at most {bytes_max} bytes, this one {bytes}");
        Self::new(ErrorCode::MessageTooLarge, why)
    }

    /// The connection is not there any more, and so nobody will read this.
    pub(crate) fn gone() -> Self {
        Self::new(ErrorCode::Internal, "the connection is gone")
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code, denied.why)
    }
}

impl Hub {
    /// Nobody configured this namespace.
    pub(crate) fn no_namespace(&self, space: &str) -> Refused {
        let mut names = self.config.namespaces.names();
        let mut known = names.by_ref().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
        if names.next().is_some() {
            known.push_str(" and others");
        }
        let why = if space == name::DEFAULT_NAMESPACE {
            format!("a name needs a namespace here, as in conversation:42; the namespaces are {known}")
        } else {
            format!("there is no namespace {space} here, but {known}")
        };
        Refused::new(ErrorCode::InvalidChannel, why)
    }
}
