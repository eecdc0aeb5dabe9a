//! `json-cost`: instructions per publish of decode, hub and encode, counted by callgrind in this very program.
//!
//! Two counts are taken of a program that differ only in the number of publishes, so that what is done once falls
//! out. No sockets and no driver: the kernel's share is what the other scenarios measure.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use corecast_hub::rules::Namespaces;
use corecast_hub::{Access, ConnKey, Effect, Effects, Hub, HubConfig, HubLimits, Now, Open};
use corecast_protocol::envelope::{Scanner, parse};
use corecast_protocol::ws::frame::{Opcode, encode, encode_masked};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

/// DESIGN's bounds for a message of 200 bytes.
const PUBLISH_MAX: f64 = 3000.0;
const RECIPIENT_MAX: f64 = 60.0;

/// Counts and judges.
///
/// # Errors
/// If valgrind is missing or says something else than a count.
pub(crate) fn run() -> Result<bool> {
    let mut per_publish = Vec::new();
    println!("{:>10} {:>24} {:>24}", "recipients", "instructions/publish", "more per recipient");
    for recipients in [1, 10, 100, 1000] {
        let (few, many) = (100, 600);
        let counted = counted(recipients, many)?.saturating_sub(counted(recipients, few)?);
        let each = counted as f64 / f64::from(many - few);
        let before: Option<&(u32, f64)> = per_publish.last();
        let more = before.map(|(fewer, cost)| (each - cost) / f64::from(recipients - fewer));
        println!("{recipients:>10} {each:>24.0} {:>24}", more.map_or(String::new(), |it| format!("{it:.1}")));
        per_publish.push((recipients, each));
    }
    let ((_, one), (most, all)) = (per_publish[0], per_publish[per_publish.len() - 1]);
    let each = (all - one) / f64::from(most - 1);
    let base = one - each;
    let is_met = base <= PUBLISH_MAX && each <= RECIPIENT_MAX;
    println!(
        "{base:.0} instructions per publish (at most {PUBLISH_MAX:.0}) and {each:.1} per recipient (at most {RECIPIENT_MAX:.0}): {}",
        if is_met { "met" } else { "missed" }
    );
    Ok(is_met)
}

fn counted(recipients: u32, publishes: u32) -> Result<u64> {
    let this = std::env::current_exe().context("this program has no path")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["json-cost-work", &recipients.to_string(), &publishes.to_string()])
        .output()
        .context("valgrind counts the instructions: install it (apt-get install valgrind)")?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed: {told}");
    }
    let count = told.lines().find_map(|line| line.split("Collected : ").nth(1));
    count.and_then(|it| it.trim().parse().ok()).ok_or_else(|| anyhow!("valgrind counted nothing: {told}"))
}

/// What is counted: a hub with one channel, and publishes of 200 bytes from a masked frame to frames for all.
pub(crate) fn work(recipients: u32, publishes: u32) -> Result<()> {
    let now = Now { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
    let mut hub = hub();
    let mut effects = Effects::default();
    let mut scanner = Scanner::new(64);
    for index in 0..recipients {
        let conn = ConnKey { index, generation: 0 };
        let open = Open {
            access: Access::Demo,
            as_name: None,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            channel: None,
            is_time_iso: false,
        };
        hub.open(now, conn, open, &mut effects);
        let subscribe = parse(r#"{"type":"subscribe","channel":"conversation:42"}"#, &mut scanner);
        hub.apply(now, conn, &subscribe.map_err(|it| anyhow!("{it:?}"))?, &mut effects);
        effects.clear();
    }
    let publisher = ConnKey { index: 0, generation: 0 };
    let frame = frame();
    let mut received = frame.clone();
    let mut codec = Connection::new(Role::Server, Limits { message_bytes: 1 << 20, fragments: 1024 });
    let mut assembly = AssemblyPool::new(4096, 4, 1 << 20);
    let mut sent = Vec::with_capacity(1 << 16);
    let mut delivered = 0;
    for _ in 0..publishes {
        received.copy_from_slice(&frame);
        let mut reader = codec.receive(&mut received, &mut assembly);
        while let Some(event) = reader.next() {
            let Ok(Event::Text(text)) = event else { bail!("the frame is a text message") };
            let request = parse(text, &mut scanner).map_err(|it| anyhow!("{it:?}"))?;
            hub.apply(now, publisher, &request, &mut effects);
        }
        drop(reader);
        for effect in &effects.list {
            match *effect {
                Effect::Deliver { message, recipients: (start, end), .. } => {
                    encode(Opcode::Text, effects.span(message), &mut sent);
                    delivered +=
                        std::hint::black_box(&effects.recipients[start as usize..end as usize]).len();
                }
                Effect::Reply { message, .. } => encode(Opcode::Text, effects.span(message), &mut sent),
                _ => bail!("a publish delivers and answers"),
            }
        }
        std::hint::black_box(&mut sent).clear();
        effects.clear();
    }
    if delivered != recipients as usize * publishes as usize {
        bail!("{delivered} deliveries of {publishes} publishes to {recipients}");
    }
    Ok(())
}

fn hub() -> Hub {
    Hub::new(HubConfig {
        shard: 0,
        shards: 1,
        node: "bench".to_owned(),
        version: "0".to_owned(),
        seed: 1,
        limits: HubLimits { connections_per_ip: 0, ..HubLimits::default() },
        namespaces: Namespaces::built_in(true),
        heartbeat_interval_ms: 30_000,
        message_bytes: 1 << 20,
    })
}

/// A message of 200 bytes, as a chat would send it.
fn frame() -> Vec<u8> {
    let head = r#"{"type":"publish","id":"7","channel":"conversation:42","event":"chat_message","payload":{"role":"user","content":""#;
    let tail = r#""}}"#;
    let content = "and so on ".repeat(20);
    let text = format!("{head}{}{tail}", &content[..200 - head.len() - tail.len()]);
    let mut frame = Vec::new();
    encode_masked(Opcode::Text, text.as_bytes(), [1, 2, 3, 4], &mut frame);
    frame
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_work_delivers_to_everybody() {
        super::work(3, 2).expect("all are reached");
        assert_eq!(super::frame().len(), 200 + 2 + 2 + 4, "200 bytes in a masked frame");
    }
}
