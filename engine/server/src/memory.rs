//! What a node leaves to the next one on this host: histories, positions, inboxes and sessions, in one file.
//!
//! The file is taken when the node starts and written when it has ended in order. In between there is none: positions
//! that have been told to clients must never be given out a second time, as they would by an older state.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use corecast_hub::state::State;

/// Takes the state from the file, if there is one; it is renamed, so that nothing starts from it again. A start that
/// fails afterwards [puts it back](put_back).
///
/// # Errors
/// If it can't be read or is no state. Nothing is changed then: whoever starts without it moves it away.
pub(crate) fn take(path: &Path) -> Result<Option<State>> {
    check_folder(path)?;
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| refusal(path)),
    };
    let state = State::from_bytes(&bytes).with_context(|| refusal(path))?;
    fs::rename(path, beside(path, "restored")).with_context(|| refusal(path))?;
    tracing::info!(
        "restored {} channels with {} messages from {}",
        state.channels.len(),
        state.channels.iter().map(|it| it.messages.len()).sum::<usize>(),
        path.display()
    );
    Ok(Some(state))
}

/// Writes the state: the whole of it or nothing.
///
/// # Errors
/// If there is no room, or no permission.
pub(crate) fn leave(path: &Path, state: &State) -> Result<()> {
    let new = beside(path, "new");
    let write = || -> std::io::Result<usize> {
        let bytes = state.to_bytes();
        // It holds messages and tokens.
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        Ok(bytes.len())
    };
    let bytes = write().with_context(|| format!("the state can't be written to {}", path.display()))?;
    tracing::info!("left {} channels in {} ({bytes} bytes)", state.channels.len(), path.display());
    Ok(())
}

/// The node did not come to serve anybody: the next start goes on from the same state.
pub(crate) fn put_back(path: &Path) {
    if let Err(error) = fs::rename(beside(path, "restored"), path) {
        tracing::error!("state.file: {} could not be put back: {error}", path.display());
    }
}

/// Better to know at the start than in the end whether it can be written.
fn check_folder(path: &Path) -> Result<()> {
    let new = beside(path, "new");
    fs::File::create(&new)
        .and_then(|_| fs::remove_file(&new))
        .with_context(|| format!("state.file: nothing can be written beside {}", path.display()))
}

/// Reads a file that has an end: a device may have none.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    fs::read(path)
}

fn refusal(path: &Path) -> String {
    format!("state.file: {} can't be restored; move it away to start without it", path.display())
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{what}"));
    name.into()
}
