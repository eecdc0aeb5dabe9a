//! Good connections that chat all the time beside whatever a test does, and that miss nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::DEADLINE;
use super::client::{Client, Connect};

/// Rooms of members. In every round one member of each room publishes, and all members read exactly that message.
pub(crate) struct Crowd {
    rooms: Vec<Room>,
    rounds: u64,
}

struct Room {
    channel: String,
    members: Vec<Client>,
    /// Of the last message; the next one has the next.
    offset: Option<u64>,
}

/// A crowd on a thread of its own.
pub(crate) struct Chatting {
    thread: thread::JoinHandle<Crowd>,
    is_over: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
}

impl Crowd {
    /// So many rooms of so many members each. The server must not limit connections per address.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, rooms: usize, members: usize) -> Self {
        let member = |channel: &str| {
            let mut client = Connect::new(address, "/ws/demo").open();
            client.subscribe(channel);
            client
        };
        let room = |number: usize| {
            let channel = format!("conversation:crowd-{number}");
            Room { members: (0..members).map(|_| member(&channel)).collect(), channel, offset: None }
        };
        Self { rooms: (0..rooms).map(room).collect(), rounds: 0 }
    }

    /// How many connections.
    pub(crate) fn len(&self) -> usize {
        self.rooms.iter().map(|room| room.members.len()).sum()
    }

    /// One message per room. Fails if anybody misses it, or hears anything else.
    #[track_caller]
    pub(crate) fn round(&mut self) {
        let round = self.rounds;
        self.rounds += 1;
        for room in &mut self.rooms {
            let channel = &room.channel;
            let publisher = round as usize % room.members.len();
            room.members[publisher]
                .send_json(&json!({"type": "publish", "channel": channel, "payload": round}));
        }
        for room in &mut self.rooms {
            room.hear(round);
        }
    }

    /// Round after round, until it is told to stop.
    pub(crate) fn chat(mut self) -> Chatting {
        let (is_over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&is_over), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                self.round();
                count.fetch_add(1, Ordering::Relaxed);
            }
            self
        });
        Chatting { thread, is_over, rounds }
    }
}

impl Room {
    #[track_caller]
    fn hear(&mut self, round: u64) {
        let expected = self.offset.map(|offset| offset + 1);
        for member in &mut self.members {
            let message = member.expect("message");
            assert_eq!(message["payload"], round, "a good connection lost something: {message}");
            let offset = message["offset"].as_u64();
            assert!(expected.is_none() || expected == offset, "{expected:?} was awaited: {message}");
            self.offset = offset;
        }
    }
}

impl Chatting {
    /// Waits until so many more rounds are over: what a test has done was met by that much talk.
    #[track_caller]
    pub(crate) fn wait_for_rounds(&self, count: u64) {
        let wanted = self.rounds.load(Ordering::Relaxed) + count;
        let until = Instant::now() + DEADLINE;
        while self.rounds.load(Ordering::Relaxed) < wanted {
            assert!(!self.thread.is_finished(), "the crowd fell silent");
            assert!(Instant::now() < until, "good connections no longer get on");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it after the round that is under way. Fails if anybody missed anything.
    #[track_caller]
    pub(crate) fn stop(self) -> Crowd {
        self.is_over.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(crowd) => {
                assert!(crowd.rounds > 0, "nobody said anything");
                crowd
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
