//! How a shard lets go of a session that is to go on in another connection.
//!
//! At once nothing more is read from the connection that has it, if it is still there. What that connection published
//! before may still be on its way to homes, and must not be passed by what the new one publishes on another shard:
//! so every home is asked to answer behind it, and only then the session is handed over (DESIGN section 3). Sessions
//! that are let go of in the same turn share one such round.

use std::sync::Arc;
use std::time::Instant;

use corecast_protocol::CloseCode;

use crate::admission::Todo;
use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects};
use crate::hub::Hub;
use crate::remote::{FromHome, Moved, ToHome};
use crate::session::token::Tokens;
use crate::session::{Happened, Kept, Waiting};

/// A session that this shard has let go of, or never had.
#[derive(Debug)]
pub(crate) struct Handed {
    participant: Arc<str>,
    session: ConnKey,
    /// What is handed over, if there is anything.
    what: Option<(Tokens, Box<[u8]>)>,
    /// When its connection was lost, or that was taken.
    lost_at: Option<Instant>,
}

/// Sessions on their way out of this shard.
#[derive(Debug, Default)]
pub(crate) struct HandOver {
    /// They wait for the next round to begin.
    gathered: Vec<Handed>,
    /// They wait for so many homes to answer the round of this number.
    rounds: Vec<(u32, u16, Vec<Handed>)>,
    count: u32,
    taken: u64,
}

impl HandOver {
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.rounds.is_empty()
    }

    /// Connections that lost their session to another one, since the start.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }
}

impl Hub {
    /// A home asks this shard to let go of a session, for a connection on another shard or on this one.
    pub(crate) fn release(
        &mut self,
        now: Now,
        participant: &str,
        session: ConnKey,
        to: u16,
        fx: &mut Effects,
    ) {
        let waiting = self.let_go(now, participant, session, fx);
        let lost_at = waiting.as_ref().and_then(|it| self.suspended.lost_at(it));
        let what = waiting.map(|it| (it.tokens, it.kept));
        let handed = Handed { participant: participant.into(), session, what, lost_at };
        // Towards each home this shard's own requests keep their order anyhow, and who hands over nothing waits for none.
        let is_in_order = to == self.config.shard || self.config.shards == 1 || handed.what.is_none();
        if is_in_order || canary::strikes(Canary::TakeoverUnfenced) {
            self.todo.push_back(Todo::HandOver(Box::new(handed)));
            return;
        }
        if self.hand_over.gathered.is_empty() {
            self.todo.push_back(Todo::Fence);
        }
        self.hand_over.gathered.push(handed);
    }

    /// Takes a session out of this shard, and closes the connection that still has it.
    fn let_go(&mut self, now: Now, participant: &str, session: ConnKey, fx: &mut Effects) -> Option<Waiting> {
        let mut waiting = match self.suspended.find(session) {
            Some(waiting) if *waiting.participant == *participant => {
                let (waiting, age) = (self.suspended.remove(session)?, self.suspended.age(now.instant));
                // Buckets have filled while it waited.
                let kept = Kept::with_buckets(waiting.kept, |full_at| full_at.saturating_sub(age));
                Waiting { kept, ..waiting }
            }
            Some(_) => return None,
            None => {
                let member = self.members.find(session).filter(|it| *it.participant == *participant)?;
                let kept = self.kept_of(now, session, member).into();
                let (participant, state) = (member.participant.clone(), member.session);
                let tokens = member.tokens?;
                let lost = self.lost_by(now, session);
                let waiting = Waiting { participant, tokens, kept, state, lost };
                self.hand_over.taken += 1;
                let reason = fx.write(|out| {
                    out.extend_from_slice(b"CANCELLED: the session goes on in another connection");
                });
                if !canary::strikes(Canary::TakenOverStillThere) {
                    fx.list.push(Effect::Close { conn: session, code: CloseCode::TakenOver, reason });
                }
                self.take_out(session);
                waiting
            }
        };
        waiting.state.go(Happened::Taken);
        for kept in Kept::each(&waiting.kept).filter(|it| !it.is_pattern) {
            self.subscription_moves(now, &waiting.participant, kept.name);
        }
        Some(waiting)
    }

    /// Every home is asked to answer behind all that this shard asked it before.
    pub(crate) fn fence(&mut self, now: Now, fx: &mut Effects) {
        let number = self.hand_over.count;
        self.hand_over.count = number.wrapping_add(1);
        let gathered = std::mem::take(&mut self.hand_over.gathered);
        self.hand_over.rounds.push((number, self.config.shards - 1, gathered));
        let own = self.config.shard;
        for home in (0..self.config.shards).filter(|home| *home != own) {
            self.ask(now, home, &ToHome::Fence { number }, fx);
        }
    }

    /// A home has seen all that came before the fence.
    pub(crate) fn fence_at_home(&mut self, now: Now, from: u16, number: u32, fx: &mut Effects) {
        self.answer_to(now, from, &FromHome::Fenced { number }, fx);
    }

    /// One home has answered; behind the last one the sessions of this round go.
    pub(crate) fn fenced(&mut self, number: u32) {
        let at = self.hand_over.rounds.iter().position(|(it, ..)| *it == number);
        debug_assert!(at.is_some(), "homes answer what they were asked, once");
        let Some(at) = at else { return };
        let awaited = &mut self.hand_over.rounds[at].1;
        *awaited -= 1;
        if *awaited == 0 {
            let (.., sessions) = self.hand_over.rounds.swap_remove(at);
            self.todo.extend(sessions.into_iter().map(|it| Todo::HandOver(Box::new(it))));
        }
    }

    /// Hands a session over to its participant's home.
    pub(crate) fn hand_session_over(&mut self, now: Now, handed: &Handed, fx: &mut Effects) {
        let home = self.home(self.hasher.of(&*handed.participant));
        let away_ms = handed.lost_at.map(|at| Self::away_ms(now, at));
        let what = handed.what.as_ref().map(|(tokens, kept)| Moved { tokens: *tokens, kept, away_ms });
        let record =
            ToHome::Released { participant: &handed.participant, session: handed.session, handed: what };
        self.ask(now, home, &record, fx);
    }
}
