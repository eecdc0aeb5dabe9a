//! Configuration: a file, the environment and flags, parsed once into validated settings.
//!
//! All problems are found at once; each names its place and what would be right.

mod keys;
mod layers;
mod namespaces;
mod settings;

pub use keys::{names, namespace_names};
pub use layers::{ConfigFile, Problem, Sources};
pub use settings::{Admin, DriverChoice, LogFormat, Settings};
