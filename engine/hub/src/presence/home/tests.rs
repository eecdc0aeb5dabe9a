//! The home's table against a slow twin, and what it costs with many members.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const HASH: u64 = 7;
const CHANNEL: &str = "room:1";

fn names(list: &[u8]) -> Vec<String> {
    Names::read(list).expect("the home wrote it").iter().map(str::to_owned).collect()
}

fn who(participant: &str) -> u64 {
    crate::config::Hasher::new(3).of(participant)
}

fn change(
    home: &mut Home,
    participant: &str,
    (before, connections): (u32, u32),
    now: Instant,
) -> Option<Due> {
    let it = Change { channel: CHANNEL, participant, who: who(participant), before, connections };
    home.change(HASH, &it, 20_000, now)
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Keeps everything and derives the rest.
#[derive(Default)]
struct Twin {
    connections: BTreeMap<(u16, String), u32>,
    /// As of the last flush.
    told: BTreeSet<String>,
    /// What somebody knows who asks now and then and hears everything.
    seen: Option<BTreeSet<String>>,
}

impl Twin {
    fn members(&self) -> BTreeSet<String> {
        self.connections.iter().filter(|it| *it.1 > 0).map(|((_, name), _)| name.clone()).collect()
    }

    /// The home has told these.
    fn hears(&mut self, told: &Told, has_asked: bool) {
        let (joined, left) = (names(&told.joined), names(&told.left));
        let members = self.members();
        assert_eq!((told.count, told.counts), (members.len() as u64, None));
        if !has_asked {
            let came: Vec<_> = members.difference(&self.told).cloned().collect();
            let went: Vec<_> = self.told.difference(&members).cloned().collect();
            assert_eq!((&joined, &left), (&came, &went), "exactly what changed");
        }
        for known in [Some(&mut self.told), self.seen.as_mut()].into_iter().flatten() {
            known.extend(joined.iter().cloned());
            left.iter().for_each(|name| {
                known.remove(name);
            });
            assert_eq!(*known, members);
        }
    }
}

fn run(seed: u64, asks: u64) {
    let (mut home, mut twin, mut random) =
        (Home::new(Duration::from_secs(180)), Twin::default(), Random(seed));
    let (mut now, mut alarms) = (Instant::now(), BTreeSet::new());
    let mut told_of = 0;
    home.watch(HASH, CHANNEL, 2, now);
    for _ in 0..2000 {
        now += Duration::from_millis(random.below(60));
        let (shard, name) = (random.below(3) as u16, format!("p{}", random.below(8)));
        let count = twin.connections.entry((shard, name.clone())).or_default();
        let before = *count;
        *count = if random.below(2) == 0 { 0 } else { random.below(3) as u32 };
        let counts = (before, *count);
        alarms.extend(change(&mut home, &name, counts, now).map(|(slot, at)| (at, slot)));
        let members = twin.members();
        if asks > 0 && random.below(asks) == 0 {
            let limit = 1 + random.below(9) as usize;
            let mut known = BTreeSet::new();
            loop {
                let page = home.page(HASH, CHANNEL, known.last().map(String::as_str), (limit, 32_768));
                assert_eq!(page.count, members.len() as u64);
                known.extend(names(&page.members));
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(known, members);
            let connections = u64::from(twin.connections.values().sum::<u32>());
            assert_eq!(home.stats(HASH, CHANNEL), (members.len() as u64, connections));
            twin.seen = Some(known);
        }
        while let Some((at, slot)) = alarms.first().copied().filter(|(at, _)| *at <= now) {
            alarms.remove(&(at, slot));
            if let Some(told) = home.flush(slot, now).0 {
                told_of += 1;
                twin.hears(&told, asks > 0);
            } else if asks == 0 {
                assert_eq!(twin.told, twin.members(), "nothing is told where nothing changed");
            }
        }
    }
    assert!(told_of > 50, "{told_of}");
    for (shard, name) in twin.connections.keys().cloned().collect::<Vec<_>>() {
        let before = twin.connections.insert((shard, name.clone()), 0).unwrap_or_default();
        change(&mut home, &name, (before, 0), now);
    }
    assert!(!home.is_empty(), "somebody watches");
    home.unwatch(HASH, CHANNEL, 2, now);
    assert!(home.is_empty());
}

#[test]
fn members_equal_the_slow_twins_and_events_are_net() {
    for seed in 1..=200 {
        for asks in [0, 4] {
            let caught = std::panic::catch_unwind(|| run(seed, asks));
            assert!(caught.is_ok(), "seed {seed}, asks {asks}");
        }
    }
}

#[test]
fn what_somebody_saw_in_between_is_told_how_it_ended() {
    let (mut home, now) = (Home::new(Duration::from_secs(180)), Instant::now());
    home.watch(HASH, CHANNEL, 1, now);
    let (slot, at) = change(&mut home, "ann", (0, 1), now).expect("watchers are to be told");
    assert_eq!(names(&home.flush(slot, at).0.expect("ann came").joined), ["ann"]);
    let (_, at) = change(&mut home, "ann", (1, 0), at).expect("watchers are to be told");
    assert_eq!(change(&mut home, "ann", (0, 1), at), None, "that is known");
    assert!(home.flush(slot, at).0.is_none(), "nothing has changed");
    let (_, at) = change(&mut home, "ann", (1, 0), at).expect("watchers are to be told");
    assert!(home.page(HASH, CHANNEL, None, (10, 32_768)).members.is_empty());
    assert!(home.flush(slot, at - WINDOW).0.is_none(), "too early");
    change(&mut home, "ann", (0, 1), at);
    assert_eq!(names(&home.flush(slot, at).0.expect("somebody saw her gone").joined), ["ann"]);
}

#[test]
fn beyond_the_limit_members_are_counted_and_many_changes_too() {
    let (mut home, now) = (Home::new(Duration::from_secs(180)), Instant::now());
    let mut limited = |participant: &str, before, connections| {
        let it = Change { channel: CHANNEL, participant, who: who(participant), before, connections };
        home.change(HASH, &it, 2, now)
    };
    for name in ["ann", "bob", "cid", "dan"] {
        limited(name, 0, 1);
    }
    limited("dan", 0, 1);
    limited("dan", 1, 0);
    home.watch(HASH, CHANNEL, 0, now);
    let page = home.page(HASH, CHANNEL, None, (10, 32_768));
    assert_eq!((page.count, names(&page.members)), (4, vec!["ann".to_owned(), "bob".to_owned()]));
    let (slot, at) = change(&mut home, "cid", (1, 0), now).expect("watchers are to be told");
    change(&mut home, "ann", (1, 0), now);
    change(&mut home, "eve", (0, 1), now);
    let told = home.flush(slot, at).0.expect("members changed");
    assert_eq!((told.count, told.counts), (3, Some((1, 2))));
    assert!(told.joined.is_empty() && told.left.is_empty());
    for number in 0..=NAMED_MAX {
        change(&mut home, &format!("p{number}"), (0, 1), at);
    }
    let told = home.flush(slot, at + WINDOW).0.expect("members changed");
    assert_eq!((told.count, told.counts), (104, Some((101, 0))));
    change(&mut home, "dan", (1, 0), at);
    assert_eq!(home.stats(HASH, CHANNEL).0, 103);
}

#[test]
fn who_was_only_counted_is_listed_when_there_is_room() {
    let (mut home, now) = (Home::new(Duration::from_secs(180)), Instant::now());
    let limited = |home: &mut Home, participant: &str, before, connections| {
        let it = Change { channel: CHANNEL, participant, who: who(participant), before, connections };
        home.change(HASH, &it, 2, now)
    };
    let listed = |home: &mut Home| {
        let page = home.page(HASH, CHANNEL, None, (10, 32_768));
        (page.count, names(&page.members))
    };
    for name in ["ann", "bob", "cid"] {
        limited(&mut home, name, 0, 1);
    }
    limited(&mut home, "cid", 0, 1);
    limited(&mut home, "ann", 1, 0);
    assert_eq!(listed(&mut home), (2, vec!["bob".to_owned(), "cid".to_owned()]));
    limited(&mut home, "cid", 1, 0);
    assert_eq!(listed(&mut home).0, 2, "it is on two shards");
    limited(&mut home, "dan", 0, 1);
    // Watchers are told with what made the room, and no number counts it twice.
    home.watch(HASH, CHANNEL, 0, now);
    let (slot, at) = limited(&mut home, "bob", 1, 0).expect("watchers are to be told");
    assert_eq!(listed(&mut home), (2, vec!["cid".to_owned()]));
    let told = home.flush(slot, at).0.expect("members changed");
    assert_eq!((told.count, told.counts), (2, None));
    assert_eq!((names(&told.joined), names(&told.left)), (vec!["dan".to_owned()], vec!["bob".to_owned()]));
    assert_eq!(listed(&mut home), (2, vec!["cid".to_owned(), "dan".to_owned()]));
    limited(&mut home, "eve", 0, 1);
    home.unwatch(HASH, CHANNEL, 0, now);
    limited(&mut home, "dan", 1, 0);
    assert_eq!(listed(&mut home), (2, vec!["cid".to_owned(), "eve".to_owned()]));
    limited(&mut home, "cid", 1, 0);
    limited(&mut home, "eve", 1, 0);
    assert!(home.is_empty());
}

#[test]
fn an_answer_is_bounded_in_bytes_and_goes_on_behind_its_last_name() {
    let (mut home, now) = (Home::new(Duration::from_secs(180)), Instant::now());
    for number in 0..1000 {
        change(&mut home, &format!("{number:0>250}"), (0, 1), now);
    }
    let (mut known, mut pages) = (Vec::new(), 0);
    loop {
        let page = home.page(HASH, CHANNEL, known.last().map(String::as_str), (1000, 32_768));
        assert!(page.members.len() < 32_768 + 300);
        known.extend(names(&page.members));
        pages += 1;
        if !page.has_more {
            break;
        }
    }
    assert_eq!((known.len(), pages), (1000, 8));
    assert!(known.is_sorted());
    assert_eq!(home.count(HASH, CHANNEL), 1000);
}

#[test]
fn typing_is_of_members_and_ends_by_time_by_leaving_and_by_writing() {
    let (mut home, now) = (Home::new(Duration::from_secs(180)), Instant::now());
    assert_eq!(home.typed(HASH, CHANNEL, "ann", now), None, "nobody is there");
    for name in ["ann", "bob", "cid"] {
        change(&mut home, name, (0, 1), now);
    }
    assert_eq!(home.typed(HASH, CHANNEL, "eve", now), None, "no member");
    assert!(!home.is_typing());
    let (slot, at) = home.typed(HASH, CHANNEL, "ann", now).expect("an alarm is to be set");
    let later = now + Duration::from_secs(1);
    assert_eq!(home.typed(HASH, CHANNEL, "bob", later), None, "one alarm is enough");
    home.typed(HASH, CHANNEL, "cid", later);
    assert_eq!(names(&home.page(HASH, CHANNEL, None, (10, 32_768)).typing), ["ann", "bob", "cid"]);
    home.wrote(HASH, CHANNEL, "bob");
    let (told, due) = home.expire_typing(slot, at);
    assert_eq!(told.map(|told| names(&told.left)), Some(vec!["ann".to_owned()]));
    assert_eq!(due, Some((slot, at + Duration::from_secs(1))));
    change(&mut home, "cid", (1, 0), later);
    assert!(!home.is_typing());
    let (told, due) = home.expire_typing(slot, at + Duration::from_secs(1));
    assert!(told.is_none() && due.is_none());
    for name in ["ann", "bob"] {
        change(&mut home, name, (1, 0), now);
    }
    assert!(home.is_empty());
}

/// What is measured is printed: `cargo nextest run -p corecast-hub presence::home --no-capture`.
#[test]
fn a_join_among_10_000_members_looks_at_few_of_them() {
    let now = Instant::now();
    for members in [100, 10_000] {
        let mut home = Home::new(Duration::from_secs(180));
        home.watch(HASH, CHANNEL, 0, now);
        for number in 0..members {
            change(&mut home, &format!("participant-{number:06}"), (0, 1), now);
        }
        home.flush(0, now + WINDOW);
        let started = Instant::now();
        for round in 0..2000 {
            let name = format!("participant-{:06}x", round * 7 % members);
            let (_, at) = change(&mut home, &name, (0, 1), now).expect("watchers are to be told");
            let told = home.flush(0, at).0.expect("somebody came");
            assert_eq!((names(&told.joined), told.left.len()), (vec![name.clone()], 0));
            assert_eq!(told.joined.len(), 2 + name.len(), "one name, not a list");
            change(&mut home, &name, (1, 0), now);
            home.flush(0, at);
        }
        println!(
            "{members} members: {} ns for a join, a leave and two flushes",
            started.elapsed().as_nanos() / 2000
        );
    }
}

#[test]
fn a_channel_with_one_member_is_small() {
    // Beside it lie the channel's name, one list of one name, and that name.
    let bytes = size_of::<Option<Channel>>();
    assert!(bytes <= 72, "{bytes}");
}

/// Members p0, p1 and so on are listed, as many as may be; as many more with long names are only counted.
fn full(listed: usize, counted: usize) -> Home {
    let (mut home, now) = (Home::new(Duration::from_secs(180)), Instant::now());
    let numbers = (0..listed).map(|number| format!("p{number}"));
    for name in numbers.chain((0..counted).map(|number| format!("{number}{}", "x".repeat(240)))) {
        let it = Change { channel: CHANNEL, participant: &name, who: who(&name), before: 0, connections: 1 };
        home.change(HASH, &it, listed, now);
    }
    home
}

/// The first so many of those who are listed leave.
fn leave(home: &mut Home, count: usize, now: Instant) -> Option<Due> {
    (0..count).filter_map(|number| change(home, &format!("p{number}"), (1, 0), now)).reduce(|first, _| first)
}

/// The bytes of names in an event, and how many there are.
fn named(told: &Told) -> (usize, usize) {
    let names = [names(&told.joined), names(&told.left)].concat();
    (names.iter().map(String::len).sum(), names.len())
}

#[test]
fn who_is_promoted_is_named_within_the_bounds_of_an_event() {
    for leaving in [1, 20, 33, 34, 50, 100] {
        let mut home = full(100, 100);
        home.watch(HASH, CHANNEL, 0, Instant::now());
        let mut due = leave(&mut home, leaving, Instant::now());
        let (mut joined, mut left, mut counted) = (0, 0, 0);
        while let Some((slot, at)) = due {
            let (told, next) = home.flush(slot, at);
            let told = told.expect("there is something to tell");
            let (bytes, count) = named(&told);
            assert!(bytes <= NAMED_BYTES_MAX && count <= NAMED_MAX, "{bytes} bytes, {count} names");
            assert_eq!(told.count, 200 - leaving as u64);
            joined += names(&told.joined).len();
            left += names(&told.left).len();
            counted += told.counts.map_or(0, |(joined, left)| joined + left);
            due = next;
        }
        assert_eq!(left + counted as usize, leaving, "those who left are told once");
        assert!(joined <= leaving && (joined == leaving || counted > 0), "{joined} of {leaving}");
        let page = home.page(HASH, CHANNEL, None, (1000, 1 << 20));
        assert_eq!(names(&page.members).len(), 100, "the list is full again");
    }
}

#[test]
fn room_for_thousands_is_filled_little_by_little() {
    let listed =
        |home: &mut Home| names(&home.page(HASH, CHANNEL, None, (usize::MAX, usize::MAX)).members).len();
    for is_watched in [true, false] {
        let mut home = full(3_000, 3_000);
        home.watch(HASH, CHANNEL, 0, Instant::now());
        let mut due = leave(&mut home, 3_000, Instant::now());
        if !is_watched {
            home.unwatch(HASH, CHANNEL, 0, Instant::now());
        }
        let mut before = listed(&mut home);
        assert!(before <= NAMED_MAX, "{before}");
        while let Some((slot, at)) = due {
            let (told, next) = home.flush(slot, at);
            assert_eq!(told.is_some(), is_watched);
            let after = listed(&mut home);
            assert!(after > before && after - before <= NAMED_MAX, "{} in one turn", after - before);
            assert!(next.is_none_or(|(_, again)| again == at + WINDOW));
            (before, due) = (after, next);
        }
        assert_eq!(before, 3_000, "all of them in the end");
    }
}
