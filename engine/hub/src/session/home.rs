//! What a participant's home knows of sessions: which tokens are good, and on which shard their session is.
//!
//! A session goes to another connection in one round: the home asks the shard that has it to let go, and passes on
//! what that shard hands over. Who asks for a session that is on its way waits for it to arrive; of several the last.

use hashbrown::HashMap;

use crate::admission::Todo;
use crate::canary::{self, Canary};
use crate::config::{Hasher, Now};
use crate::effect::{ConnKey, Effects};
use crate::hub::Hub;
use crate::remote::{FromHome, Moved};
use crate::session::token::{Mint, Token, Tokens};

/// Where the session of a token is: the shard, and the connection that it has or had there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// Whose it is: the hash of the participant, which the shard that has the session compares by name.
    participant: u64,
    shard: u16,
    session: ConnKey,
    /// Each session has one token that is its latest: by these sessions are counted.
    is_current: bool,
}

/// Somebody who asks for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asking {
    shard: u16,
    conn: ConnKey,
    presented: Token,
    /// Of the session that the connection has had so far, and gives up for this one.
    own: Token,
}

/// A session on its way to another connection.
#[derive(Debug)]
struct Move {
    to: Asking,
    /// Who asked meanwhile.
    next: Option<Asking>,
}

/// All tokens of the participants whose home is here.
#[derive(Debug)]
pub(crate) struct HomeSessions {
    mint: Mint,
    tokens: HashMap<Token, Place, foldhash::fast::FixedState>,
    moves: HashMap<(u16, ConnKey), Move, foldhash::fast::FixedState>,
}

/// What becomes of a request for a session.
#[derive(Debug)]
enum Asked {
    /// This shard is to let go of it.
    Release(u16, ConnKey),
    /// It is on its way to somebody else, who has it first; whoever waited so far is refused.
    Waits(Option<Asking>),
    /// There is no such session of this participant.
    Unknown,
}

impl HomeSessions {
    pub(crate) fn new(hasher: &Hasher, secret: &[u8; 32], shard: u16) -> Self {
        Self {
            mint: Mint::new(secret, shard),
            tokens: HashMap::with_hasher(hasher.0.clone()),
            moves: HashMap::with_hasher(hasher.0.clone()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.moves.is_empty()
    }

    /// A connection begins a session.
    pub(crate) fn begin(&mut self, participant: u64, (shard, session): (u16, ConnKey)) -> Token {
        let token = self.mint.next();
        self.tokens.insert(token, Place { participant, shard, session, is_current: true });
        token
    }

    /// Whether it is a token of this participant's.
    pub(crate) fn knows(&self, participant: u64, token: Token) -> bool {
        self.tokens.get(&token).is_some_and(|it| it.participant == participant)
    }

    /// A session that came from another node and waits here, with the tokens that it had there.
    pub(crate) fn restore(&mut self, participant: u64, (shard, session): (u16, ConnKey), tokens: Tokens) {
        let place = Place { participant, shard, session, is_current: true };
        self.tokens.insert(tokens.current, place);
        if let Some(former) = tokens.former {
            self.tokens.insert(former, Place { is_current: false, ..place });
        }
    }

    /// Forgets a token; whether a session ended with it.
    fn forget(&mut self, token: Token) -> bool {
        self.tokens.remove(&token).is_some_and(|place| place.is_current)
    }

    fn ask(&mut self, participant: u64, asking: Asking) -> Asked {
        let Some(place) = self.tokens.get(&asking.presented).filter(|it| it.participant == participant)
        else {
            return Asked::Unknown;
        };
        let at = (place.shard, place.session);
        if at == (asking.shard, asking.conn) {
            // It has it already.
            return Asked::Unknown;
        }
        match self.moves.get_mut(&at) {
            Some(on_its_way) => Asked::Waits(on_its_way.next.replace(asking)),
            None => {
                self.moves.insert(at, Move { to: asking, next: None });
                Asked::Release(at.0, at.1)
            }
        }
    }

    /// The session of these tokens goes on in another connection, which gets a new token; the one that was presented
    /// stays good until the client is known to have the new one. And whether the session that the connection had so
    /// far ended by that.
    fn arrive(&mut self, participant: u64, to: &Asking, tokens: Tokens) -> (Token, bool) {
        self.forget(tokens.current);
        tokens.former.map(|former| self.forget(former));
        let is_own = |own: &Place| (own.shard, own.session) == (to.shard, to.conn);
        let ends_own = self.tokens.get(&to.own).is_some_and(is_own) && self.forget(to.own);
        let place = Place { participant, shard: to.shard, session: to.conn, is_current: true };
        self.tokens.insert(to.presented, Place { is_current: false, ..place });
        let token = self.mint.next();
        self.tokens.insert(token, place);
        (token, ends_own)
    }
}

impl Hub {
    /// A connection of a participant asks for the session of a token.
    pub(crate) fn resume_at_home(
        &mut self,
        now: Now,
        (shard, conn): (u16, ConnKey),
        participant: &str,
        (presented, own): (Token, Token),
        fx: &mut Effects,
    ) {
        let hash = self.hasher.of(participant);
        match self.home_sessions.ask(hash, Asking { shard, conn, presented, own }) {
            Asked::Release(owner, session) => {
                let record = FromHome::Release { participant, session, to: shard };
                self.answer_to(now, owner, &record, fx);
            }
            Asked::Waits(None) => {}
            Asked::Waits(Some(refused)) => {
                self.answer_to(now, refused.shard, &FromHome::NotResumed { conn: refused.conn }, fx);
            }
            Asked::Unknown => self.answer_to(now, shard, &FromHome::NotResumed { conn }, fx),
        }
    }

    /// A shard has let go of a session, or does not have it any more.
    pub(crate) fn released_at_home(
        &mut self,
        now: Now,
        (from, session): (u16, ConnKey),
        participant: &str,
        handed: Option<Moved<'_>>,
        fx: &mut Effects,
    ) {
        let moved = self.home_sessions.moves.remove(&(from, session));
        debug_assert!(moved.is_some(), "a session is released only when it was asked for");
        let Some(Move { to, next }) = moved else { return };
        if let Some(next) = next {
            // Asked again where the session is now; not here, because a request causes one record for a shard.
            self.todo.push_back(Todo::AskAgain(Box::new((participant.into(), next))));
        }
        // A connection that took in another session meanwhile has given up its own, which nobody can have any more.
        let is_known = |tokens: &Tokens| self.home_sessions.tokens.contains_key(&tokens.current);
        let Some(moved) = handed.filter(|it| is_known(&it.tokens)) else {
            return self.answer_to(now, to.shard, &FromHome::NotResumed { conn: to.conn }, fx);
        };
        let hash = self.hasher.of(participant);
        let (current, ends_own) = self.home_sessions.arrive(hash, &to, moved.tokens);
        if ends_own {
            self.participants.session_ended(hash, participant);
        }
        let tokens = Tokens { current, former: Some(to.presented) };
        let record = FromHome::Resumed { conn: to.conn, participant, session: Moved { tokens, ..moved } };
        self.answer_to(now, to.shard, &record, fx);
    }

    /// Who waited for a session to arrive somewhere asks for it there.
    pub(crate) fn ask_again(&mut self, now: Now, participant: &str, asking: &Asking, fx: &mut Effects) {
        let (place, tokens) = ((asking.shard, asking.conn), (asking.presented, asking.own));
        self.resume_at_home(now, place, participant, tokens, fx);
    }

    /// A session is over.
    pub(crate) fn session_ended_at_home(&mut self, participant: &str, tokens: Tokens) {
        tokens.former.map(|former| self.home_sessions.forget(former));
        if self.home_sessions.forget(tokens.current) {
            self.participants.session_ended(self.hasher.of(participant), participant);
        }
    }

    /// The client of a session has its latest token: the former one is good no more.
    pub(crate) fn token_used_up(&mut self, former: Token) {
        if !canary::strikes(Canary::TokenReused) {
            self.home_sessions.forget(former);
        }
    }
}
