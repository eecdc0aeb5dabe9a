//! An order of use: which slot was used longest ago? Links in a vector, so that moving one to the end is a few writes.

/// No slot.
const NONE: u32 = u32::MAX;

/// A slot's neighbours; itself on both sides while it is in no order.
#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

/// Slots in the order of their last use.
#[derive(Debug)]
pub(crate) struct Order {
    links: Vec<Links>,
    oldest: u32,
    newest: u32,
    count: usize,
}

impl Order {
    pub(crate) fn new() -> Self {
        Self { links: Vec::new(), oldest: NONE, newest: NONE, count: 0 }
    }

    /// How many slots are in it.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The slot that was used longest ago.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Puts a slot at the newest end, wherever it was.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest == slot {
            return;
        }
        self.remove(slot);
        for new in self.links.len() as u32..=slot {
            self.links.push(Links { older: new, newer: new });
        }
        let older = std::mem::replace(&mut self.newest, slot);
        match older {
            NONE => self.oldest = slot,
            older => self.links[older as usize].newer = slot,
        }
        self.links[slot as usize] = Links { older, newer: NONE };
        self.count += 1;
    }

    /// Takes a slot out, if it is in.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(links) = self.links.get_mut(slot as usize) else { return };
        let Links { older, newer } = std::mem::replace(links, Links { older: slot, newer: slot });
        if older == slot {
            return;
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_equals_its_slow_twin() {
        for seed in 1..200 {
            let mut random = crate::home::Random(seed);
            let (mut order, mut twin) = (Order::new(), Vec::<u32>::new());
            for _ in 0..200 {
                let (slot, what) = ((random.next() % 9) as u32, random.next() % 3);
                twin.retain(|it| *it != slot);
                if what == 0 {
                    order.remove(slot);
                } else {
                    order.touch(slot);
                    twin.push(slot);
                }
                assert_eq!((order.oldest(), order.len()), (twin.first().copied(), twin.len()), "seed {seed}");
            }
            while let Some(oldest) = order.oldest() {
                assert_eq!(oldest, twin.remove(0), "seed {seed}");
                order.remove(oldest);
            }
            assert!(twin.is_empty());
        }
    }
}
