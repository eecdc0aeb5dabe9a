//! Sessions: what outlives a connection, as one explicit state machine.
//!
//! A session begins with its connection and has a token from its admission on. When the connection is lost, the session
//! stays on its shard, suspended, until its client resumes it from any shard or nobody did in time. Here is which state
//! may follow which; `suspended` keeps who waits, `home` knows all tokens, `hand_over` lets a session go to another
//! connection, `resume` takes it in there, `token` and `kept` are the forms of what is passed on.

mod hand_over;
mod home;
mod hooks;
mod inbox;
mod kept;
mod moved;
mod query;
mod resume;
mod suspended;
mod token;

pub(crate) use hand_over::{HandOver, Handed};
pub(crate) use home::{Asking, HomeSessions};
pub(crate) use kept::Kept;
pub(crate) use resume::{RESUMING, Resuming};
pub(crate) use suspended::{Lost, Suspended, Waiting};
pub use token::{Token, Tokens};

/// How a connection ends, as its shard saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// On purpose: the session ends with it.
    Ended,
    /// On purpose, and nothing that was queued for it waited any more: it has got what it was sent.
    Parted,
    /// It was lost, or is asked to come back: the session waits for its client.
    Suspended,
}

/// Sessions of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionCounts {
    /// Without a connection now.
    pub suspended: u64,
    /// That went on in a new connection here.
    pub resumed: u64,
    /// That nobody resumed in time, or that gave way to later ones.
    pub expired: u64,
    /// Whose connection here was closed because they went on in another one.
    pub taken_over: u64,
}

/// Where a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Its connection awaits admission.
    Connected,
    /// Its connection is a participant's.
    Authenticated,
    /// Without a connection, for as long as it may be resumed.
    Suspended,
    /// It ends here, or goes on elsewhere: nothing of it is served here any more.
    Closing,
}

/// What happens to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Happened {
    /// The homes agreed to its connection.
    Admitted,
    /// Another session goes on in its connection.
    Resumed,
    /// Its connection was lost.
    Lost,
    /// Its connection was ended on purpose, or refused.
    Ended,
    /// Another connection takes it over.
    Taken,
    /// Nobody resumed it in time, or there are too many that wait.
    Expired,
}

impl State {
    /// All transitions there are; `None` for what can't happen.
    pub(crate) fn after(self, happened: Happened) -> Option<Self> {
        Some(match (self, happened) {
            (Self::Connected, Happened::Admitted) => Self::Authenticated,
            // Who was not admitted has nothing that is worth keeping.
            (Self::Connected, Happened::Lost | Happened::Ended) => Self::Closing,
            (Self::Authenticated, Happened::Resumed) => Self::Authenticated,
            (Self::Authenticated, Happened::Lost) => Self::Suspended,
            (Self::Authenticated, Happened::Ended | Happened::Taken) => Self::Closing,
            (Self::Suspended, Happened::Taken | Happened::Expired) => Self::Closing,
            _ => return None,
        })
    }

    /// Makes a transition. One that can't happen is a defect of ours: the state stays as it is.
    pub(crate) fn go(&mut self, happened: Happened) {
        let next = self.after(happened);
        debug_assert!(next.is_some(), "{happened:?} can't happen to a session that is {self:?}");
        *self = next.unwrap_or(*self);
    }

    /// As clients are told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Authenticated => "authenticated",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 4] = [State::Connected, State::Authenticated, State::Suspended, State::Closing];
    const ALL: [Happened; 6] = [
        Happened::Admitted,
        Happened::Resumed,
        Happened::Lost,
        Happened::Ended,
        Happened::Taken,
        Happened::Expired,
    ];

    #[test]
    fn every_transition_is_as_the_contract_says() {
        // One row per state, one column per event, in the orders above.
        let expected = [
            [Some(State::Authenticated), None, Some(State::Closing), Some(State::Closing), None, None],
            [
                None,
                Some(State::Authenticated),
                Some(State::Suspended),
                Some(State::Closing),
                Some(State::Closing),
                None,
            ],
            [None, None, None, None, Some(State::Closing), Some(State::Closing)],
            [None; 6],
        ];
        for (state, row) in STATES.into_iter().zip(expected) {
            for (happened, next) in ALL.into_iter().zip(row) {
                assert_eq!(state.after(happened), next, "{state:?} and {happened:?}");
            }
        }
    }

    #[test]
    fn a_transition_that_is_allowed_is_made() {
        for state in STATES {
            for happened in ALL {
                if let Some(next) = state.after(happened) {
                    let mut now = state;
                    now.go(happened);
                    assert_eq!(now, next);
                }
            }
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_transition_that_can_t_happen_is_noticed() {
        for state in STATES {
            for happened in ALL.into_iter().filter(|it| state.after(*it).is_none()) {
                let went = std::panic::catch_unwind(|| {
                    let mut now = state;
                    now.go(happened);
                });
                assert!(went.is_err(), "{state:?} and {happened:?}");
            }
        }
    }

    #[test]
    fn every_state_can_be_reached_and_left_but_the_last() {
        let mut reached = vec![State::Connected];
        for _ in 0..STATES.len() {
            for state in reached.clone() {
                let next = ALL.into_iter().filter_map(|happened| state.after(happened));
                let new: Vec<_> = next.filter(|it| !reached.contains(it)).collect();
                reached.extend(new);
            }
        }
        assert!(STATES.iter().all(|state| reached.contains(state)), "{reached:?}");
        let is_last = |state: &State| ALL.into_iter().all(|happened| state.after(happened).is_none());
        assert_eq!(STATES.into_iter().filter(is_last).collect::<Vec<_>>(), [State::Closing]);
    }
}
