//! Writes the first inputs of the fuzz targets: the cases of `protocol/vectors`, and what lies in `fuzz/seeds`.
//!
//! Usage: `corecast-fuzz-seeds FOLDER`. Knows how the cases are written down, not what they mean.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

/// The lists, the member that holds the bytes, and the target that reads them.
const LISTS: &[(&str, &str, &str, &str)] = &[
    ("handshake", "requests", "lines", "handshake"),
    ("handshake", "requests", "bytes", "handshake"),
    ("frames", "reading", "bytes", "frames"),
    ("commands", "cases", "text", "envelope"),
    ("deflate", "reading", "bytes", "inflate"),
    ("utf8", "cases", "bytes", "envelope"),
    ("msgpack", "commands", "bytes", "msgpack"),
    ("transcode", "both", "msgpack", "transcode"),
    ("transcode", "to_json", "msgpack", "transcode"),
    ("transcode", "both", "json", "transcode"),
    ("transcode", "to_msgpack", "json", "transcode"),
    // Bytes are decisions for these two: some variety to begin with is all that they need.
    ("frames", "reading", "bytes", "assembly"),
    ("commands", "cases", "text", "hub"),
];

/// Larger ones would only be mutated slowly.
const SEED_BYTES_MAX: usize = 20_000;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: corecast-fuzz-seeds FOLDER");
        return ExitCode::from(2);
    };
    match write_all(&folder) {
        Ok(count) => {
            println!("{count} seeds");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("corecast-fuzz-seeds: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(folder: &Path) -> Result<usize, String> {
    let mut count = 0;
    for (file, list, member, target) in LISTS {
        let written = write_list(folder, (file, list, member), target)?;
        if written == 0 {
            return Err(format!("{file}/{list}: no case has `{member}`"));
        }
        count += written;
    }
    Ok(count + copy_files(folder)?)
}

fn write_list(
    folder: &Path,
    (file, list, member): (&str, &str, &str),
    target: &str,
) -> Result<usize, String> {
    let path = root().join("../../protocol/vectors").join(file).with_extension("json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let content: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let cases = content[list].as_array().ok_or(format!("{file}: no list `{list}`"))?;
    let mut count = 0;
    for (index, case) in cases.iter().enumerate() {
        let Some(value) = case.get(member) else { continue };
        let mut bytes = match (member, value) {
            ("lines", Value::Array(lines)) => head(lines)?,
            _ => read(value)?,
        };
        bytes.extend(case.get("behind").map_or(Ok(Vec::new()), read)?);
        if bytes.len() <= SEED_BYTES_MAX {
            put(folder, target, &format!("{file}-{member}-{index}"), &bytes)?;
            count += 1;
        }
    }
    Ok(count)
}

/// What no case stands for: `fuzz/seeds/TARGET/*`.
fn copy_files(folder: &Path) -> Result<usize, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut count = 0;
    for target in std::fs::read_dir(root()).map_err(text)? {
        let target = target.map_err(text)?.path();
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !target.is_dir() || name == "src" {
            continue;
        }
        for file in std::fs::read_dir(&target).map_err(text)? {
            let file = file.map_err(text)?.path();
            let bytes = std::fs::read(&file).map_err(text)?;
            put(folder, &name, &file.file_name().unwrap_or_default().to_string_lossy(), &bytes)?;
            count += 1;
        }
    }
    Ok(count)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn put(folder: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<(), String> {
    let folder = folder.join(target);
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join(name), bytes));
    written.map_err(|error| format!("{}: {error}", folder.display()))
}

fn head(lines: &[Value]) -> Result<Vec<u8>, String> {
    let mut head = Vec::new();
    for line in lines {
        head.extend(read(line)?);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// A string, `{"text" or "hex", "times"}`, or a list of these (`protocol/vectors/README.md`).
fn read(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Array(parts) => parts.iter().try_fold(Vec::new(), |mut all, part| {
            all.extend(read(part)?);
            Ok(all)
        }),
        Value::Object(piece) => {
            let once = match (piece.get("text"), piece.get("hex")) {
                (Some(Value::String(text)), None) => text.as_bytes().to_vec(),
                (None, Some(Value::String(hex))) => from_hex(hex)?,
                _ => return Err(format!("neither text nor hex: {value}")),
            };
            let times = piece.get("times").and_then(Value::as_u64).unwrap_or(1);
            Ok(once.repeat(times as usize))
        }
        _ => Err(format!("not bytes: {value}")),
    }
}

fn from_hex(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2);
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(format!("not hexadecimal: {hex}"))
    };
    digits.chunks(2).map(byte).collect()
}
