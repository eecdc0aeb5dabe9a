//! Asking for the past of what is subscribed already: nothing that is published until the answer is lost or comes twice.
//!
//! Who asks stays live until the first message with an offset comes: that one and those behind it come with the answer,
//! or behind it, from where the subscription stood. A past that is none (`recovered:false`) takes nobody further than the
//! latest messages that come with it reach back.

use crate::canary::{self, Canary};
use crate::channel::index;
use crate::effect::ConnKey;
use crate::hub::Hub;
use crate::member::Cursor;
use crate::remote::{Epoch, Page, Written};

/// Where a subscription stands, if that is not where the answer says: its messages come on the way then.
pub(crate) type Stands = Option<(Epoch, u64)>;

impl Hub {
    /// A subscription's past is going to be asked for.
    pub(crate) fn await_past(&mut self, conn: ConnKey, hash: u64, name: &str) {
        let Some(index) = self.channels.find(hash, name, false) else { return };
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let is_live = own.place.is_some();
        let extra = own.extra();
        let is_first = extra.awaited == 0;
        extra.awaited += 1;
        if let Some(cursor) = &mut extra.cursor {
            // The answer says where it goes on.
            cursor.is_held = true;
        }
        if is_live && is_first {
            self.channels.get_mut(index).expect("a subscription's channel exists").looks_back(conn);
        }
    }

    /// A message comes, or the news of an epoch, before who looks back was answered.
    #[cold]
    pub(crate) fn who_looks_back_waits(&mut self, slot: u32, written: &Written<'_>) {
        let index = index(slot, false);
        if let Some(reborn) = written.reborn.filter(|it| it.is_for_all) {
            let behind = self.channels.get(index).and_then(|it| it.behind.as_deref());
            for conn in behind.map_or(Vec::new(), |it| it.catching_up.clone()) {
                let extra = self.subscription_mut(conn, index).and_then(|it| it.extra.as_deref_mut());
                if let Some(held) = extra.and_then(|it| it.held.as_mut()) {
                    *held = reborn.offset;
                }
            }
        }
        if written.offset == 0 {
            return;
        }
        let waiting = self.channels.get_mut(index).map(|it| it.take_who_look_back());
        for conn in waiting.unwrap_or_default() {
            let Some(place) = self.subscription_mut(conn, index).and_then(|own| own.place.take()) else {
                continue;
            };
            self.leave_for_a_while(conn, index, place);
            if let Some(own) = self.subscription_mut(conn, index) {
                own.extra().held = Some(written.offset - 1);
            }
        }
    }

    /// A subscription begins where the answer says, live or catching up, or goes on from where it stood; none if it does
    /// not exist any more.
    pub(crate) fn begin(
        &mut self,
        conn: ConnKey,
        serial: u32,
        name: &str,
        page: &Page<'_>,
    ) -> Option<Stands> {
        let (index, own) = self.own(conn, serial, name, false)?;
        let (has_acks, is_live) = (own.acks().is_some(), own.place.is_some());
        let extra = own.extra.as_deref_mut();
        let awaited = extra.map_or(0, |extra| {
            extra.awaited -= u32::from(page.is_past);
            extra.awaited
        });
        let stands = own.stands(page);
        let channel = self.channels.get_mut(index).expect("a subscription's channel exists");
        // Of some nothing is kept: so nothing is to be waited for.
        let is_kept = self.config.namespaces.at(channel.rule).numbers();
        if awaited == 0 {
            channel.looked_back(conn);
            self.renew_filter(conn, index);
        }
        if !is_kept && !page.is_held {
            return self.activate(conn, serial, name, false).then_some(None);
        }
        let is_recovered = page.is_past && page.is_recovered;
        if awaited > 0 || !page.is_past && stands.is_some() {
            // Another answer says how it goes on, or none is to.
            let goes_on = is_recovered && !(is_live && page.is_live);
            if goes_on || stands.is_none() && !is_live {
                let cursor = Cursor { epoch: page.epoch, offset: page.offset, is_held: true };
                self.stand_at(conn, index, cursor);
            }
            if awaited == 0 {
                self.begin_acks_on_the_way(conn, index);
            }
            return Some(stands.filter(|_| !is_recovered));
        }
        let carried = page.messages.map_or(0, |it| u64::from(it.count));
        if let Some((epoch, offset)) = stands.filter(|_| page.is_past && !page.is_recovered)
            && epoch == page.epoch
            && offset < page.offset - carried
            && (!has_acks || self.acks_begin_at(conn, index, (epoch, offset)))
        {
            self.stand_at(conn, index, Cursor { epoch, offset, is_held: page.is_held });
            return Some(stands);
        }
        self.begin_anew(conn, (serial, index, name), page)
    }

    /// It begins as if it had never stood anywhere, unless it acknowledges.
    fn begin_anew(
        &mut self,
        conn: ConnKey,
        (serial, index, name): (u32, u32, &str),
        page: &Page<'_>,
    ) -> Option<Stands> {
        let goes_on_from = self.begin_acks(conn, index, page);
        let offset = goes_on_from.unwrap_or(page.offset);
        let own = self.subscription_mut(conn, index);
        let is_full = goes_on_from.is_some() && own.and_then(|it| it.acks()).is_some_and(|it| it.is_full());
        let is_live = page.is_live && offset == page.offset && !is_full;
        if is_live || page.has_more && canary::strikes(Canary::LiveTooEarly) {
            return self.activate(conn, serial, name, false).then_some(None);
        }
        self.stand_at(conn, index, Cursor { epoch: page.epoch, offset, is_held: page.is_held });
        Some(Some((page.epoch, offset)).filter(|_| !page.is_recovered))
    }

    /// A subscription that was answered goes on as one that is catching up.
    fn stand_at(&mut self, conn: ConnKey, index: u32, cursor: Cursor) {
        let Some(own) = self.subscription_mut(conn, index) else { return };
        if own.place.is_some() {
            return self.fall_behind(conn, index, cursor);
        }
        let extra = own.extra();
        let was_behind = extra.cursor.replace(cursor).is_some();
        let was_held = extra.held.take().is_some();
        if was_behind {
            return;
        }
        self.members.find_mut(conn).expect("it has a subscription").behind += 1;
        if !was_held {
            self.channels.get_mut(index).expect("a subscription's channel exists").falls_behind(conn);
        }
    }

    /// A subscription that is live goes on as one that is catching up.
    pub(crate) fn fall_behind(&mut self, conn: ConnKey, index: u32, cursor: Cursor) {
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let Some(place) = own.place.take() else { return };
        // What is asked for waits for the answer that says where it goes on.
        let is_held = cursor.is_held || own.extra().awaited > 0;
        own.extra().cursor = Some(Cursor { is_held, ..cursor });
        self.members.find_mut(conn).expect("it has a subscription").behind += 1;
        self.leave_for_a_while(conn, index, place);
    }

    /// It leaves its channel's subscribers, to come back later.
    fn leave_for_a_while(&mut self, conn: ConnKey, index: u32, place: u32) {
        let Some(member) = self.members.find(conn) else { return };
        let format = member.format;
        let is_filtered = member.of(index).is_some_and(|own| own.filter().is_some());
        let gate = self.leave_place(conn, format, (index, place, is_filtered));
        let own = self.subscription_mut(conn, index).expect("it was there before");
        own.extra().gate = gate;
        let channel = self.channels.get_mut(index).expect("a subscription's channel exists");
        channel.await_home(format);
        channel.looked_back(conn);
        channel.falls_behind(conn);
    }
}
