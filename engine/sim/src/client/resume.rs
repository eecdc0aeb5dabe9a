//! Sessions: what becomes of one when its connection ends, and going on with one in another connection.

use super::answer::id;
use super::deeds::Deed;
use super::hear::{Answered, Heard, Resumed};
use super::ledger::{Ask, Topic};
use super::past::NO_EPOCHS;
use super::presence::{is_attended, watch_on, watched};
use super::requests::noted;
use super::session::{Session, Stage};
use super::{Client, End, Town, acks, lacking};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Class, Names};
use crate::oracle::{Began, Check, Checked, Choice, Doubts, Failure, Fate, Subject, Ticket, Wanted};

/// A session that is asked for.
#[derive(Debug)]
pub(super) struct Plan {
    ticket: Ticket,
    /// By the path of the connection: there are no positions then.
    is_by_path: bool,
    is_sent: bool,
    /// What the client says that it has seen.
    positions: Vec<(ChannelIndex, (String, u64))>,
    /// What it had subscribed to by itself before.
    own: Vec<Topic>,
}

/// What this end of a connection means for its session (the contract, sections 5 and 6).
fn fate(session: &Session, end: &End) -> Fate {
    let is_over = |code: u16| matches!(code, 1000 | 1002 | 1003 | 1007..=1009 | 4500..=4999);
    match *end {
        End::Refused(_) => Fate::Never,
        End::Closed(1013 | 4501) if !session.is_established && session.said_close.is_none() => Fate::Never,
        // The client's own code but 1000 says nothing of coming back.
        End::Closed(code) if session.said_close == Some(code) => match code {
            1000 => Fate::Ends,
            _ => Fate::WaitsSince,
        },
        // Both closed: which close came first nobody can tell.
        _ if session.said_close.is_some() || session.close_due.is_some() => Fate::Unclear,
        End::Closed(4502) => Fate::Moved,
        End::Closed(code) if is_over(code) => Fate::Ends,
        End::Closed(_) => Fate::WaitsSince,
        End::Own => Fate::Waits,
        End::Fin | End::Reset => Fate::Unclear,
    }
}

/// The connection is about to end for its client.
pub(super) fn lost(session: &Session, end: &End, town: &mut Town) -> Checked {
    if session.kind.is_echo || session.kind.probe.is_some() {
        return Ok(());
    }
    let mut doubts = Doubts { watched: watched(session), ..Doubts::default() };
    doubts.positions.extend(session.ledger.awaited_pasts());
    for topic in session.ledger.doubtful() {
        match topic {
            Topic::Channel(channel) => doubts.channels.insert(channel),
            Topic::Prefix(prefix) => doubts.prefixes.insert(prefix),
        };
    }
    let name = if session.is_established || session.kind.is_named { &*session.name } else { "" };
    // Who was not well may have been given up before.
    let fate = match fate(session, end) {
        Fate::Waits if !session.may_not_be_ended(town) => Fate::WaitsSince,
        fate => fate,
    };
    town.oracle.session_lost(session.serial, name, fate, doubts)
}

/// `resumed`: the session goes on with everything that it had, from where the client says that it was.
pub(super) fn resumed(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let wrong = |what: String| Err(Failure::new(Check::Sessions, what));
    let asked = session.ledger.take(id(heard)?, |ask| *ask == Ask::Resume);
    let (Some(_), Some(plan)) = (asked, session.plan.take()) else {
        return wrong("nobody asked for a session".to_owned());
    };
    let (Some(token), Some(subscriptions)) = (heard.resume_token, &heard.subscriptions) else {
        return wrong("a session without a token or subscriptions".to_owned());
    };
    let listed: Vec<String> = subscriptions.iter().map(|it| it.channel.to_string()).collect();
    if (1..listed.len()).any(|at| listed[..at].contains(&listed[at])) {
        return wrong(format!("a subscription twice: {listed:?}"));
    }
    town.deeds.did(if plan.is_by_path { Deed::ResumedByPath } else { Deed::Resumed });
    // From here on it may be told that what it missed is lost.
    session.ledger.has_wanted_past = true;
    let room = lacking::room(session, town, &listed);
    let found = town.oracle.resumed(session.serial, &session.name, token, listed, room)?;
    lacking::begins(session, found.lacks, room)?;
    let watched = found.watched;
    for it in subscriptions {
        goes_on(session, town, &plan, it)?;
        // Of who did not want to be told nobody knows: it may have asked for that and got no answer.
        if let Some(channel) = town.names.find(&it.channel).filter(|it| is_attended(*it, town)) {
            watch_on(channel, watched.get(&channel), session);
        }
    }
    if !subscriptions.iter().any(|it| it.channel == "@me") {
        town.oracle.inbox_goes_on(session.serial);
    }
    town.oracle.has_resumed();
    Ok(())
}

/// One subscription of a session goes on.
fn goes_on(session: &mut Session, town: &mut Town, plan: &Plan, it: &Resumed<'_>) -> Checked {
    let wrong = |what: String| Err(Failure::new(Check::Sessions, what));
    let prefixes = &town.names.prefixes;
    if let Some(prefix) = prefixes.iter().position(|prefix| it.channel.strip_suffix('*') == Some(prefix)) {
        if !plan.own.contains(&Topic::Prefix(prefix)) {
            session.ledger.resumes(Topic::Prefix(prefix));
            town.oracle.pattern_subscribed(session.serial, prefix);
            sieve_on(session, town, Subject::Prefix(prefix));
        }
        return Ok(());
    }
    let channel = match &*it.channel {
        "@me" => session.participant.map(|participant| town.names.inbox(participant)),
        name => town.names.find(name),
    };
    let (Some(channel), Some(epoch), Some(offset)) = (channel, it.epoch, it.offset) else {
        return wrong(format!("{} goes on without a position", it.channel));
    };
    let topic = Topic::Channel(channel);
    if &*it.channel == "@me" {
        town.deeds.did(Deed::ResumedInbox);
        town.oracle.forget_inbox_of(&session.name);
    } else if plan.own.contains(&topic) {
        // Its own filter holds, and counts anew.
        if town.chaos.is_on(Fault::Filters) {
            town.oracle.sieved(session.serial, Subject::Channel(channel), None, true);
        }
        acks::go_on(session, town, channel, None);
        return match it.recovered {
            true => wrong(format!("{} is recovered, and was subscribed to before", it.channel)),
            false => Ok(()),
        };
    } else {
        session.ledger.resumes(topic);
    }
    let position = (epoch, offset);
    let known = plan.positions.iter().find(|(known, _)| *known == channel);
    let mut known = known.map(|(_, position)| position.clone());
    // What is no epoch is no position: it goes on as if none had been named.
    let is_named = known.as_ref().is_some_and(|(theirs, _)| theirs == epoch);
    if !is_named && it.recovered && &*it.channel != "@me" && town.chaos.is_on(Fault::Acks) {
        town.oracle.check_goes_on_behind(channel, position)?;
        known = Some((epoch.to_owned(), offset));
    } else if known.is_none() && !it.recovered {
        known = town.oracle.acknowledged_at_least(channel);
    }
    let wanted = Wanted { position: known, latest: 0 };
    let recovered = Some(it.recovered);
    let subject = Subject::Channel(channel);
    let (sieve, is_unclear) = town.oracle.sieve_handed(subject);
    let is_filtered = town.chaos.is_on(Fault::Filters) && (sieve.is_some() || is_unclear);
    let began = Began { position, recovered, carried: 0, has_more: None, is_filtered };
    town.oracle.subscribed_from(session.serial, channel, &wanted, &began)?;
    // Even where nothing is recovered it is live only a moment later: until then it may lack what is not kept.
    town.oracle.catches_up(session.serial, channel);
    town.oracle.began(session.serial, channel, &began, (false, false))?;
    if &*it.channel != "@me" {
        sieve_on(session, town, subject);
        acks::go_on(session, town, channel, Some(position));
    }
    Ok(())
}

/// A subscription goes on with the filter that it had.
fn sieve_on(session: &Session, town: &mut Town, subject: Subject) {
    if town.chaos.is_on(Fault::Filters) {
        let (sieve, is_unclear) = town.oracle.sieve_handed(subject);
        town.oracle.sieved(session.serial, subject, sieve.as_ref(), is_unclear);
    }
}

/// The token was refused: the connection goes on as it is.
pub(super) fn refused(session: &mut Session, town: &mut Town) -> Checked {
    session.plan = None;
    town.deeds.did(Deed::ResumeRefused);
    town.oracle.resume_refused(session.serial)
}

/// What the hub says of the session while all rests: it is subscribed to what its client knows.
pub(super) fn described(session: &Session, town: &mut Town, result: &Answered<'_>) -> Checked {
    let wrong = |what: String| Err(Failure::new(Check::Sessions, what));
    town.deeds.did(Deed::SessionDescribed);
    let Some(names) = &result.subscriptions else { return wrong("no subscriptions".to_owned()) };
    let mut theirs: Vec<&str> = names.iter().map(|name| &**name).collect();
    theirs.sort_unstable();
    let own = texts(&session.ledger.held, &town.names);
    if result.participant != Some(&*session.name) || result.state != Some("authenticated") {
        return wrong(format!("a session of {:?} that is {:?}", result.participant, result.state));
    }
    if own.iter().ne(theirs.iter()) {
        return wrong(format!("the session is subscribed to {theirs:?}, and its client to {own:?}"));
    }
    Ok(())
}

/// What a client says of where it was, which need not be true.
fn claimed(position: Option<(String, u64)>, town: &mut Town) -> Option<(String, u64)> {
    let mut below = |bound: usize| town.chaos.below(Fault::Resume, bound);
    let (kind, by) = (below(16), 1 + below(6) as u64);
    let (epoch, offset) = position?;
    match kind {
        0 => None,
        1 => Some((NO_EPOCHS[below(NO_EPOCHS.len())].to_owned(), offset)),
        2 | 3 => Some((epoch, offset.saturating_sub(by))),
        4 => Some((epoch, offset + by)),
        _ => Some((epoch, offset)),
    }
}

/// Topics as they are written, in order.
fn texts(topics: &[Topic], names: &Names) -> Vec<String> {
    let mut texts: Vec<String> = topics.iter().map(|topic| topic.text(names)).collect();
    texts.sort_unstable();
    texts
}

impl Client {
    /// A connection that is about to be asked for may be one that resumes a session; what its path says of that.
    pub(super) fn plan_resumption(&mut self, session: &mut Session, town: &mut Town) -> Option<String> {
        let may = session.kind.is_named && !session.kind.is_echo && town.habits.sessions.window_ms > 0;
        if !may {
            return None;
        }
        let ticket = self.ticket(session, town)?;
        let is_by_path = session.ledger.is_empty() && town.chaos.below(Fault::Resume, 3) == 0;
        let plan = Plan { ticket, is_by_path, is_sent: is_by_path, positions: Vec::new(), own: Vec::new() };
        let option = is_by_path.then(|| format!("resume={}", plan.ticket.token));
        if is_by_path {
            let is_bounded = town.habits.sessions.is_bounded();
            town.oracle.presents(session.serial, &session.name, &plan.ticket, is_bounded);
            session.ledger.ask_nameless(Ask::Resume);
        }
        session.plan = Some(Box::new(plan));
        option
    }

    /// A token to present, now and then, and more often where a session waits.
    fn ticket(&self, session: &Session, town: &mut Town) -> Option<Ticket> {
        let (chaos, oracle) = (&mut town.chaos, &mut town.oracle);
        let is_struck = chaos.strikes(Fault::Resume);
        let mut find =
            |choice| oracle.ticket(&session.name, choice, |bound| chaos.below(Fault::Resume, bound));
        let waiting = find(Choice::OfLost);
        if !is_struck && (waiting.is_none() || chaos.below(Fault::Resume, 2) == 0) {
            return None;
        }
        let (choice, deed) = match chaos.below(Fault::Resume, 20) {
            0..12 if waiting.is_some() => return waiting,
            0..3 => {
                town.deeds.did(Deed::TokenMadeUp);
                let text = ["", "t", "AAAAAAAAAAAAAAAAAAAAAA", "what?"][chaos.below(Fault::Resume, 4)];
                return Some(Ticket { token: text.to_owned(), of: None });
            }
            12..16 => (Choice::OfLiving, Deed::TakesOver),
            16..19 => (Choice::Old, Deed::TokenOld),
            19 => (Choice::OfOther, Deed::TokenOfOther),
            _ => return None,
        };
        let ticket = oracle.ticket(&session.name, choice, |bound| chaos.below(Fault::Resume, bound));
        if ticket.is_some() {
            town.deeds.did(deed);
        }
        ticket
    }

    /// Asks for a session in a message, once the connection is there; sometimes behind subscriptions of its own, and
    /// with publishes behind it.
    pub(super) fn resume(&mut self, session: &mut Session, town: &mut Town) {
        let is_ready = session.stage == Stage::Open && session.is_established;
        let Some(mut plan) = session.plan.take_if(|plan| is_ready && !plan.is_sent) else { return };
        let channels = town.oracle.resumable(&plan.ticket);
        // Where there is little room, so many of its own that not all of the session's find some.
        let is_narrow = 2 * channels.len() >= town.habits.subscriptions_limit;
        let one_in = if is_narrow { 2 } else { 6 };
        if town.chaos.below(Fault::Resume, one_in) == 0 && !town.is_settling {
            let more = if is_narrow { town.chaos.below(Fault::Resume, 6) } else { 0 };
            for _ in 0..=more {
                let text = self.subscribe(session, town);
                session.message(town, &text, &mut self.rng);
            }
            town.deeds.did(Deed::ResumedOwn);
        }
        plan.own.clone_from(&session.ledger.held);
        for (channel, position) in channels {
            plan.positions.extend(claimed(position, town).map(|position| (channel, position)));
        }
        plan.is_sent = true;
        let named: Vec<String> = plan
            .positions
            .iter()
            .map(|(channel, (epoch, offset))| {
                let name = match town.names.channels[usize::from(*channel)].class {
                    Class::Inbox => "@me",
                    _ => &*town.names.channels[usize::from(*channel)].name,
                };
                format!(r#""{name}":["{epoch}",{offset}]"#)
            })
            .collect();
        let positions = match named.is_empty() {
            true => String::new(),
            false => format!(r#","positions":{{{}}}"#, named.join(",")),
        };
        let id = session.ledger.ask(vec![Ask::Resume]);
        let token = &plan.ticket.token;
        let text = format!(r#"{{"type":"resume","id":{},"token":"{token}"{positions}}}"#, noted(id, town));
        session.message(town, &text, &mut self.rng);
        let is_bounded = town.habits.sessions.is_bounded();
        town.oracle.presents(session.serial, &session.name, &plan.ticket, is_bounded);
        session.plan = Some(plan);
        if town.chaos.below(Fault::Resume, 4) == 0 && !town.is_settling {
            town.deeds.did(Deed::SpokeBehindResume);
            for _ in 0..=town.chaos.below(Fault::Resume, 4) {
                let text = self.publish(session, town, 100);
                session.message(town, &text, &mut self.rng);
            }
        }
    }

    /// Once at each rest it asks what its session is. That is a request as any other: an inbox that was held for who
    /// might resume goes on with it.
    pub(super) fn ask_session(&mut self, session: &mut Session, town: &mut Town) {
        let is_quiet = town.is_settling && session.stage == Stage::Open && session.ledger.is_empty();
        let is_wanted = is_quiet && session.is_established && town.habits.sessions.window_ms > 0;
        if !is_wanted || session.kind.is_echo || session.described_at == town.rests {
            return;
        }
        session.described_at = town.rests;
        let id = session.ledger.ask(vec![Ask::Session]);
        let text = format!(r#"{{"type":"query","id":{},"method":"session"}}"#, noted(id, town));
        session.message(town, &text, &mut self.rng);
    }
}
