//! `json-cost`: instructions per publish of decode, hub and encode, counted by callgrind in this very program.
//!
//! Two counts are taken of a program that differ only in the number of publishes, so that what is done once falls
//! out. No sockets and no driver: the kernel's share is what the other scenarios measure.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use corecast_hub::rules::Namespaces;
use corecast_hub::{
    Access, ConnKey, Effect, Effects, Format, Hub, HubConfig, HubLimits, Now, Open, ReplayLimits, Secret,
};
use corecast_protocol::envelope::{Scanner, parse};
use corecast_protocol::ws::frame::{Opcode, encode, encode_masked};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};

use crate::report::write_json;

/// DESIGN's bounds for a message of 200 bytes.
const PUBLISH_MAX: f64 = 3000.0;
const RECIPIENT_MAX: f64 = 60.0;

/// What the counts are of.
const SCOPE: &str = "per recipient: hub only. Outboxes, batches and the kernel are not in it; fanout-1k and rooms measure those";

/// One channel whose messages are not kept, and one whose are.
const CHANNELS: [(&str, &str); 2] = [("bare", "room-of-everybody"), ("with history", "conversation:42")];

/// What was counted.
#[derive(Clone, Debug, serde::Serialize)]
struct Report {
    scenario: &'static str,
    scope: &'static str,
    channels: Vec<Costs>,
    is_met: bool,
}

/// What was counted with one channel.
#[derive(Clone, Debug, serde::Serialize)]
struct Costs {
    kind: &'static str,
    channel: &'static str,
    /// Instructions per publish, by the number of recipients.
    instructions_per_publish: Vec<(u32, f64)>,
    /// Of decode, hub and encode, without any recipient.
    base: f64,
    /// More for each recipient: the hub's share only.
    per_recipient: f64,
    is_met: bool,
}

/// Counts and judges.
///
/// # Errors
/// If valgrind is missing or says something else than a count, or the result can't be written.
pub(crate) fn run(json: Option<&Path>) -> Result<bool> {
    let channels = CHANNELS.map(|it| count(it, &[1, 10, 100, 1000], (100, 600)));
    let channels = channels.into_iter().collect::<Result<Vec<_>>>()?;
    channels.iter().for_each(Costs::print);
    if let [bare, kept] = &*channels {
        println!(
            "a history costs {:.0} instructions per publish ({:.2}x)",
            kept.base - bare.base,
            kept.base / bare.base
        );
    }
    println!("({SCOPE})");
    let is_met = channels.iter().all(|it| it.is_met);
    write_json(json, &Report { scenario: "json-cost", scope: SCOPE, channels, is_met })?;
    Ok(is_met)
}

impl Costs {
    fn print(&self) {
        println!("{}, {}", self.kind, self.channel);
        println!("{:>10} {:>24} {:>24}", "recipients", "instructions/publish", "more per recipient");
        let mut before: Option<(u32, f64)> = None;
        for &(recipients, each) in &self.instructions_per_publish {
            let more = before.map(|(fewer, cost)| (each - cost) / f64::from(recipients - fewer));
            let more = more.map_or(String::new(), |it| format!("{it:.1}"));
            println!("{recipients:>10} {each:>24.0} {more:>24}");
            before = Some((recipients, each));
        }
        println!(
            "{:.0} instructions per publish (at most {PUBLISH_MAX:.0}) and {:.1} per recipient, hub only (at most \
             {RECIPIENT_MAX:.0}): {}",
            self.base,
            self.per_recipient,
            if self.is_met { "met" } else { "missed" }
        );
    }
}

/// A small count for the smoke test, in one line; nothing where valgrind is missing.
pub(crate) fn smoke() -> Result<Option<String>> {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let told = CHANNELS.map(|it| {
        // Beyond what is kept of a channel, so that both counts hold what replacing costs.
        let costs = count(it, &[1, 10], (120, 220))?;
        let Costs { kind, base, per_recipient, .. } = costs;
        Ok(format!("{kind} {base:.0} instructions per publish, {per_recipient:.1} per recipient"))
    });
    Ok(Some(told.into_iter().collect::<Result<Vec<_>>>()?.join("; ")))
}

fn count(it: (&'static str, &'static str), sizes: &[u32], (few, many): (u32, u32)) -> Result<Costs> {
    let mut per_publish = Vec::new();
    for &recipients in sizes {
        let counted = counted(it.1, recipients, many)?.saturating_sub(counted(it.1, recipients, few)?);
        per_publish.push((recipients, counted as f64 / f64::from(many - few)));
    }
    Ok(costs(it, per_publish))
}

/// A line through the first and the last count; the first is of one recipient.
fn costs((kind, channel): (&'static str, &'static str), per_publish: Vec<(u32, f64)>) -> Costs {
    let ((_, one), (most, all)) = (per_publish[0], per_publish[per_publish.len() - 1]);
    let per_recipient = (all - one) / f64::from(most - 1);
    let base = one - per_recipient;
    let is_met = base <= PUBLISH_MAX && per_recipient <= RECIPIENT_MAX;
    Costs { kind, channel, instructions_per_publish: per_publish, base, per_recipient, is_met }
}

fn counted(channel: &str, recipients: u32, publishes: u32) -> Result<u64> {
    let this = std::env::current_exe().context("this program has no path")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["json-cost-work", channel, &recipients.to_string(), &publishes.to_string()])
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
pub(crate) fn work(channel: &str, recipients: u32, publishes: u32) -> Result<()> {
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
            format: Format::Json,
            resume: None,
        };
        hub.open(now, conn, open, &mut effects);
        let subscribe = format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#);
        let subscribe = parse(&subscribe, &mut scanner);
        hub.apply(now, conn, &subscribe.map_err(|it| anyhow!("{it:?}"))?, &mut effects);
        effects.clear();
    }
    let publisher = ConnKey { index: 0, generation: 0 };
    let frame = frame(channel);
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
        secret: Secret([1; 32]),
        limits: HubLimits { connections_per_ip: 0, ..HubLimits::default() },
        namespaces: Namespaces::built_in(true),
        heartbeat_interval_ms: 30_000,
        message_bytes: 1 << 20,
        replay: ReplayLimits::for_outbox(1_000, 4 << 20),
    })
}

/// A message of 200 bytes, as a chat would send it.
fn frame(channel: &str) -> Vec<u8> {
    let head = format!(
        r#"{{"type":"publish","id":"7","channel":"{channel}","event":"chat_message","payload":{{"role":"user","content":""#
    );
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
        for (_, channel) in super::CHANNELS {
            super::work(channel, 3, 2).expect("all are reached");
            assert_eq!(super::frame(channel).len(), 200 + 2 + 2 + 4, "200 bytes in a masked frame");
        }
    }

    #[test]
    fn the_base_is_without_any_recipient() {
        let costs = super::costs(super::CHANNELS[0], vec![(1, 2040.0), (10, 2400.0)]);
        assert_eq!((costs.base, costs.per_recipient, costs.is_met), (2000.0, 40.0, true));
        assert!(
            !super::costs(super::CHANNELS[0], vec![(1, 2100.0), (10, 3000.0)]).is_met,
            "100 per recipient are too many"
        );
    }
}
