//! Sessions that go on: whether a token may work, or must, and whether what was resumed is what the client had.

use super::channel::Truth;
use super::session::{Doubts, Fate, Former, Lost, Place, Told, Watched};
use super::{Check, Checked, Failure, Oracle, Seen, Serial, Sieve, Subject, View};
use crate::names::{ChannelIndex, Class};

/// Sessions of one participant that may wait on a shard, if they are bounded at all.
const OWN_MAX: usize = 10;

/// A token that is going to be presented.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// What is presented.
    pub token: String,
    /// The session that it is or was a token of.
    pub of: Option<Serial>,
}

/// Channels, and how far somebody is there.
pub type Places = Vec<(ChannelIndex, Option<(String, u64)>)>;

/// What kind of token a client looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The latest one of a session whose connection is gone.
    OfLost,
    /// The latest one of a session that somebody has.
    OfLiving,
    /// One that was the latest once, or is of a session that is over.
    Old,
    /// One of another participant.
    OfOther,
}

/// A token that was presented and not answered yet.
#[derive(Debug)]
pub(super) struct Attempt {
    ticket: Ticket,
    /// Why it can't work.
    fails: Option<&'static str>,
    /// Whether the session was certainly to be had.
    was_certain: bool,
    /// What it had published on each channel by then.
    published: Vec<u32>,
    /// Somebody else got the session meanwhile, or got it from here.
    is_contended: bool,
    /// Whether something was said behind it already.
    pub(super) has_spoken: bool,
}

/// What is known of a session that goes on.
#[derive(Debug, Default)]
pub struct Resumed {
    /// The channels of which its client was told who comes and goes, and who was there.
    pub watched: Watched,
    /// What there is no room for; nothing is known of that where it was somebody else's too.
    pub lacks: Option<Lacks>,
}

/// Subscriptions of a session that do not go on, as they are written.
#[derive(Debug, Default)]
pub struct Lacks {
    /// For certain.
    pub missing: Vec<String>,
    /// Those that it may have had or not.
    pub doubtful: Vec<String>,
}

fn wrong(what: String) -> Checked {
    Err(Failure::new(Check::Sessions, what))
}

impl Oracle {
    /// A token for a client of this name; `below` draws.
    pub fn ticket(
        &mut self,
        name: &str,
        choice: Choice,
        mut below: impl FnMut(usize) -> usize,
    ) -> Option<Ticket> {
        let is_it = |record: &super::session::Record| match choice {
            Choice::OfLost => record.name == name && matches!(record.place, Place::Lost(_)),
            Choice::OfLiving => record.name == name && matches!(record.place, Place::Live(..)),
            Choice::Old => record.name == name && (record.former.is_some() || record.place == Place::Over),
            Choice::OfOther => record.name != name && record.place != Place::Over,
        };
        let mut found = self.sessions.records.iter().filter(|(_, record)| is_it(record));
        let count = found.clone().count();
        // The latest ones, mostly.
        let most = if below(2) == 0 { 2 } else { count };
        let back = below(most).min(count.checked_sub(1)?);
        let (id, record) = found.nth(count - 1 - back)?;
        let former = record.former.as_ref().filter(|_| choice == Choice::Old && record.place != Place::Over);
        let token = former.map_or(&record.token, |former| &former.token).clone();
        Some(Ticket { token, of: Some(*id) })
    }

    /// Which channels the session of a ticket may have, as far as anybody knows, and how far it is there.
    pub fn resumable(&mut self, ticket: &Ticket) -> Places {
        let Some(place) = ticket.of.and_then(|id| self.sessions.record(id)).map(|it| it.place) else {
            return Vec::new();
        };
        let (view, unsure) = match place {
            Place::Live(serial, _) => (self.views.get(&serial), None),
            Place::Lost(serial) => match self.sessions.lost.get(&serial) {
                Some(lost) => (lost.view.as_ref(), Some(&lost.doubts.positions)),
                None => (None, None),
            },
            Place::Over => (None, None),
        };
        let Some(view) = view else { return Vec::new() };
        let is_sure = |channel: &ChannelIndex| unsure.is_none_or(|unsure| !unsure.contains(channel));
        let position = |channel: ChannelIndex| {
            let at = view.at(channel).filter(|_| is_sure(&channel))?;
            Some(self.truths[usize::from(channel)].text_of(at))
        };
        let channels = (0..self.truths.len() as ChannelIndex).filter(|it| view.is_by_name(*it));
        channels.map(|it| (it, position(it))).collect()
    }

    /// A connection of this name presents a token. Sessions may have to end earlier than in time (`is_bounded`).
    pub fn presents(&mut self, serial: Serial, name: &str, ticket: &Ticket, is_bounded: bool) {
        let has_resumed = self.sessions.of.get(&serial).is_some_and(|id| *id != serial);
        let own =
            self.sessions.lost.values().filter(|lost| lost.name == name || lost.name.is_empty()).count();
        let record = ticket.of.and_then(|id| self.sessions.record(id));
        let mut was_certain = !is_bounded && own <= OWN_MAX;
        let mut fails = has_resumed.then_some("the connection had resumed a session before");
        match record {
            None => fails = fails.or(Some("nobody was ever told this token")),
            Some(record) => {
                let former = record.former.as_ref().filter(|it| it.token == ticket.token);
                let is_spoken = former.is_some_and(|it| it.has_spoken);
                let is_dead = former.map_or(record.token != ticket.token, |it| it.is_used_up);
                if record.name != name {
                    fails = fails.or(Some("it is another participant's"));
                } else if record.place == Place::Over && !record.is_muddled {
                    fails = fails.or(Some("the session was over"));
                } else if is_dead && !record.is_muddled {
                    fails = fails.or(Some("it was used up"));
                }
                was_certain &= !record.is_sought || matches!(record.place, Place::Lost(_));
                was_certain &= !record.is_muddled && !is_spoken && record.asked_by.is_empty();
                was_certain &= matches!(record.place, Place::Live(_, false) | Place::Lost(_));
                if fails.is_none() {
                    record.asked_by.push(serial);
                }
            }
        }
        was_certain &= fails.is_none();
        let published = self.published(serial);
        let attempt = Attempt {
            ticket: ticket.clone(),
            fails,
            was_certain,
            published,
            is_contended: false,
            has_spoken: false,
        };
        self.sessions.attempts.insert(serial, attempt);
        self.session_wavers(serial);
    }

    /// A token was refused.
    ///
    /// # Errors
    /// If it had to work.
    pub fn resume_refused(&mut self, serial: Serial) -> Checked {
        let Some(attempt) = self.sessions.attempts.remove(&serial) else { return Ok(()) };
        let (now_us, window_us) = (self.now_us, self.sessions.window_us);
        if let Some(own) = self.sessions.record_of(serial)
            && own.place == Place::Live(serial, true)
        {
            own.place = Place::Live(serial, false);
        }
        let Some(record) = attempt.ticket.of.and_then(|id| self.sessions.record(id)) else { return Ok(()) };
        let is_alone = record.asked_by == [serial];
        record.asked_by.retain(|it| *it != serial);
        // Who has it may have said something meanwhile, so that the token before is good no more.
        let former = record.former.as_ref().filter(|it| it.token == attempt.ticket.token);
        let is_good = former.map_or(record.token == attempt.ticket.token, |it| !it.has_spoken);
        let is_certain = attempt.was_certain && is_alone && is_good && !record.is_muddled;
        let place = record.place;
        let is_there = match place {
            Place::Live(_, wavers) => !wavers && !record.is_sought,
            Place::Lost(lost) => self.sessions.lost.get(&lost).is_some_and(|lost| {
                lost.fate == Fate::Waits && now_us < lost.since_us + window_us && lost.view.is_some()
            }),
            Place::Over => false,
        };
        if is_certain && is_there {
            return wrong(format!("a token was refused although its session was there: {place:?}"));
        }
        Ok(())
    }

    /// A connection ended without an answer to the token that it presented: what becomes of its own session.
    pub(super) fn attempt_lost(&mut self, serial: Serial, fate: Fate, subscriptions: usize) -> Fate {
        let Some(attempt) = self.sessions.attempts.remove(&serial) else { return fate };
        // Its own session was given up for the other one, or not yet.
        let own = if matches!(fate, Fate::Ends | Fate::Never) { fate } else { Fate::Unclear };
        let Some(record) = attempt.ticket.of.and_then(|id| self.sessions.record(id)) else { return own };
        record.asked_by.retain(|it| *it != serial);
        let name = record.name.clone();
        if attempt.fails.is_some() || fate == Fate::Never {
            return own;
        }
        (record.is_mixed, record.is_sought) = (true, true);
        record.mixed_in += subscriptions;
        // It may have gone on there: the token works all the same, unless more was said behind it.
        if attempt.has_spoken || fate != Fate::Waits {
            record.is_muddled = true;
        }
        match record.place {
            Place::Lost(lost) => self.unnotice(lost),
            Place::Live(..) => record.is_muddled = true,
            Place::Over => {}
        }
        self.moves(&name);
        own
    }

    /// A session goes on in a connection, with a new token and these subscriptions, as they are written. With them the
    /// connection has so many, of as many as it may have (`room`).
    ///
    /// # Errors
    /// If the token must not have worked, or something of the session is missing.
    pub fn resumed(
        &mut self,
        serial: Serial,
        name: &str,
        token: &str,
        listed: Vec<String>,
        room: (usize, usize),
    ) -> Result<Resumed, Failure> {
        let attempt = self.sessions.attempts.remove(&serial);
        let Some(attempt) = attempt else { return Err(Failure::new(Check::Sessions, "nobody asked for it")) };
        if let Some(why) = attempt.fails {
            return Err(Failure::new(Check::Sessions, format!("a token worked, and {why}")));
        }
        let id = attempt.ticket.of.expect("who has none fails");
        self.sessions.note_token(token, id)?;
        self.moves(name);
        self.clock += 1;
        let clock = self.clock;
        let sessions = &mut self.sessions;
        // The session that the connection had so far is over.
        if let Some(own) = sessions.record_of(serial) {
            own.place = Place::Over;
        }
        sessions.of.insert(serial, id);
        let record = sessions.record(id).expect("tickets are of records");
        debug_assert_eq!(record.name, name, "who is another fails");
        record.asked_by.retain(|it| *it != serial);
        let before = std::mem::replace(&mut record.place, Place::Live(serial, false));
        record.token = token.to_owned();
        let has_spoken = attempt.has_spoken;
        record.former = Some(Former { token: attempt.ticket.token, has_spoken, is_used_up: false });
        // Who else asks gets it later, or had it before: nobody can tell which.
        record.is_muddled &= matches!(before, Place::Live(..));
        record.is_muddled |= !record.asked_by.is_empty() || attempt.is_contended;
        let others = record.asked_by.clone();
        let is_muddled = record.is_muddled;
        let is_mixed = std::mem::replace(&mut record.is_mixed, record.is_sought) || is_muddled;
        let mixed_in = if is_muddled { usize::MAX } else { record.mixed_in };
        if !record.is_mixed {
            record.mixed_in = 0;
        }
        for other in others {
            if let Some(attempt) = sessions.attempts.get_mut(&other) {
                attempt.is_contended = true;
            }
        }
        if let Place::Lost(other) | Place::Live(other, _) = before
            && !is_mixed
            && !attempt.is_contended
        {
            sessions.successors.insert(other, (serial, attempt.published));
        }
        match before {
            _ if attempt.is_contended => Ok(Resumed::default()),
            Place::Lost(lost) => match sessions.lost.remove(&lost) {
                Some(lost) => self.goes_on(lost, &listed, (is_mixed, mixed_in), room),
                None => Ok(Resumed::default()),
            },
            Place::Live(other, _) if other != serial && !is_mixed => {
                sessions.taken.insert(other, clock);
                let had_room = room.0 < room.1;
                sessions.unchecked.insert(other, Told { by: serial, listed, had_room, is_all: false });
                Ok(Resumed::default())
            }
            _ => Ok(Resumed::default()),
        }
    }

    /// A session without a connection goes on; others may have had it in between (`is_mixed`), with so many subscriptions.
    fn goes_on(
        &mut self,
        lost: Lost,
        listed: &[String],
        (is_mixed, mixed_in): (bool, usize),
        (has, most): (usize, usize),
    ) -> Result<Resumed, Failure> {
        let Some(view) = lost.view else { return Ok(Resumed::default()) };
        let missing = self.missing(listed, &view, &lost.doubts, is_mixed)?;
        // Somebody else may have been told that there was no room.
        let is_all = has < most && !(is_mixed && view.count().saturating_add(mixed_in) > most);
        if let Some(missing) = missing.first().filter(|_| is_all) {
            return Err(not_resumed(missing, listed));
        }
        let watched = lost.doubts.watched.clone();
        let doubtful = self.doubtful(&lost.doubts);
        self.sessions.handed = Some((view, lost.doubts)).filter(|_| !is_mixed);
        let lacks = (!is_mixed).then_some(Lacks { missing, doubtful });
        Ok(Resumed { watched, lacks })
    }

    /// A connection was told that there is no room for a subscription of the session that goes on in it.
    pub fn found_no_room(&mut self, serial: Serial, text: &str) {
        if let Some(told) = self.sessions.unchecked.values_mut().find(|told| told.by == serial) {
            told.listed.push(text.to_owned());
        }
    }

    /// A connection in which a session goes on was told all that it has not any more.
    pub fn was_told_all(&mut self, serial: Serial) {
        if let Some(told) = self.sessions.unchecked.values_mut().find(|told| told.by == serial) {
            told.is_all = true;
        }
    }

    /// What a subscription of the session that was just resumed asked for; and whether nobody can tell.
    pub fn sieve_handed(&self, subject: Subject) -> (Option<Sieve>, bool) {
        let Some((view, doubts)) = &self.sessions.handed else { return (None, true) };
        let is_doubtful = match subject {
            Subject::Channel(channel) => doubts.channels.contains(&channel),
            Subject::Prefix(prefix) => doubts.prefixes.contains(&prefix),
        };
        (view.sieve_of(subject, self.moment()), is_doubtful)
    }

    /// All of `resumed` was read.
    pub fn has_resumed(&mut self) {
        self.sessions.handed = None;
    }

    /// How much a connection has published on each channel.
    fn published(&self, serial: Serial) -> Vec<u32> {
        let count = |truth: &Truth| truth.publishers.get(&serial).map_or(0, |it| it.count);
        self.truths.iter().map(count).collect()
    }

    /// What a connection published comes before what its successor does, everywhere.
    pub(super) fn check_succession(&self, view: &View, seen: &Seen<'_>) -> Checked {
        let Some((later, counts)) = self.sessions.successors.get(&seen.from.0) else { return Ok(()) };
        let truth = &self.truths[usize::from(seen.channel)];
        let before = counts[usize::from(seen.channel)];
        match view.last(seen.channel, *later) {
            Some(last)
                if last > before && truth.class != Class::Conflating && !truth.is_repeated(seen.from) =>
            {
                let what = format!(
                    "message {} of connection {} comes behind {last} of connection {later}, which went on with its \
                     session",
                    seen.from.1, seen.from.0
                );
                Err(Failure::new(Check::Order, what))
            }
            _ => Ok(()),
        }
    }

    /// A channel of a session that goes on is not live yet.
    pub fn catches_up(&mut self, serial: Serial, channel: ChannelIndex) {
        if let Some(view) = self.views.get_mut(&serial)
            && matches!(self.truths[usize::from(channel)].class, Class::Numbered | Class::Inbox)
        {
            view.falls_behind(channel, true, self.clock);
        }
    }

    /// Whether a connection that took a session over was told all that the other one had.
    pub(super) fn check_told(&self, told: &Told, view: &View, doubts: &Doubts) -> Checked {
        let missing = self.missing(&told.listed, view, doubts, false)?;
        match missing.first() {
            Some(missing) if told.had_room || told.is_all => Err(not_resumed(missing, &told.listed)),
            _ => Ok(()),
        }
    }

    fn text(&self, channel: ChannelIndex) -> String {
        self.names.channels[usize::from(channel)].name.clone()
    }

    /// What a session may have or not, as it is written.
    fn doubtful(&self, doubts: &Doubts) -> Vec<String> {
        let prefixes = doubts.prefixes.iter().map(|it| format!("{}*", self.names.prefixes[*it]));
        doubts.channels.iter().map(|it| self.text(*it)).chain(prefixes).collect()
    }

    /// What of a session's is not listed. A session has what its client had, and nothing else unless it `is_mixed` with
    /// another.
    fn missing(
        &self,
        listed: &[String],
        view: &View,
        doubts: &Doubts,
        is_mixed: bool,
    ) -> Result<Vec<String>, Failure> {
        let names = &self.names;
        let channels = (0..names.open as ChannelIndex)
            .filter(|it| view.is_by_name(*it) && !doubts.channels.contains(it))
            .map(|it| self.text(it));
        let patterns = (0..names.prefixes.len())
            .filter(|it| view.has_pattern(*it) && !doubts.prefixes.contains(it))
            .map(|it| format!("{}*", names.prefixes[it]));
        let certain: Vec<String> = channels.chain(patterns).collect();
        let doubtful = self.doubtful(doubts);
        let more = |name: &&String| {
            !is_mixed && *name != "@me" && !certain.contains(name) && !doubtful.contains(name)
        };
        if let Some(more) = listed.iter().find(more) {
            let what = format!("{more} is resumed, and was none of {certain:?}");
            return Err(Failure::new(Check::Sessions, what));
        }
        Ok(certain.into_iter().filter(|it| !listed.contains(it)).collect())
    }
}

fn not_resumed(missing: &str, listed: &[String]) -> Failure {
    Failure::new(Check::Sessions, format!("{missing} is not resumed: {listed:?}"))
}
