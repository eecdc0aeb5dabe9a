//! The shard's table of connections, by the driver's slot and generation.
//!
//! The driver hands out the slots; this table only finds what belongs to them, and refuses what belongs to an
//! earlier user of the slot.

use corecast_driver::ConnId;
use corecast_hub::canary::{self, Canary};

/// A table of `T` by [`ConnId`].
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Option<(u32, T)>>,
    len: usize,
}

impl<T> Slab<T> {
    /// An empty table; it grows to the highest slot in use.
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), len: 0 }
    }

    /// Fills a slot.
    ///
    /// # Panics
    /// If the slot is taken: the driver reuses one only after `Closed`.
    pub(crate) fn insert(&mut self, id: ConnId, value: T) {
        let index = id.index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(self.slots[index].is_none(), "a slot is reused only after its connection was closed");
        self.slots[index] = Some((id.generation, value));
        self.len += 1;
    }

    /// What is in the slot, if it is of this generation.
    pub(crate) fn find(&mut self, id: ConnId) -> Option<&mut T> {
        match self.slots.get_mut(id.index as usize) {
            Some(Some((generation, value)))
                if *generation == id.generation || canary::strikes(Canary::SlotReuse) =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// What is in the slot, whoever it is.
    pub(crate) fn at(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.as_mut().map(|(_, value)| value)
    }

    /// Empties a slot.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        self.find(id)?;
        let taken = self.slots[id.index as usize].take();
        self.len -= 1;
        taken.map(|(_, value)| value)
    }

    /// The slots in use, rising.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(index, _)| index)
    }

    /// How many slots are in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_key_finds_nobody() {
        let mut slab = Slab::new();
        let (old, new) = (ConnId { index: 3, generation: 0 }, ConnId { index: 3, generation: 1 });
        slab.insert(old, "old");
        assert_eq!(slab.remove(old), Some("old"));
        slab.insert(new, "new");
        assert_eq!(
            (slab.find(old).copied(), slab.remove(old), slab.find(new).copied()),
            (None, None, Some("new"))
        );
        assert_eq!((slab.len(), slab.indices().collect::<Vec<_>>()), (1, vec![3]));
    }
}
