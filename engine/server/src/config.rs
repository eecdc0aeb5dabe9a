//! Configuration: a file, the environment and flags, parsed once into validated settings.
//!
//! All problems are found at once; each names its place and what would be right.

mod keys;
mod layers;
mod settings;

pub(crate) use layers::Sources;
pub(crate) use settings::{Admin, DriverChoice, LogFormat, Settings};
