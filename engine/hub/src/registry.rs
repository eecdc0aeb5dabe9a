//! Named things in slots: found by name with a hash that was computed once, or by index without one.

use hashbrown::HashTable;

/// Something with a name.
pub(crate) trait Named {
    fn name(&self) -> &str;
}

/// Slots of named things.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    by_name: HashTable<(u64, u32)>,
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T: Named> Registry<T> {
    pub(crate) fn new() -> Self {
        Self { by_name: HashTable::new(), slots: Vec::new(), free: Vec::new() }
    }

    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, name: &str) -> Option<u32> {
        let (_, first) = *self.by_name.find(hash, |entry| entry.0 == hash)?;
        if self.is_called(first, name) { Some(first) } else { self.find_another(hash, name) }
    }

    fn is_called(&self, index: u32, name: &str) -> bool {
        self.get(index).is_some_and(|it| it.name() == name)
    }

    /// Two names of one hash: so rare that the table is searched again.
    #[cold]
    fn find_another(&self, hash: u64, name: &str) -> Option<u32> {
        let is_it = |entry: &(u64, u32)| entry.0 == hash && self.is_called(entry.1, name);
        self.by_name.find(hash, is_it).map(|entry| entry.1)
    }

    pub(crate) fn insert(&mut self, hash: u64, value: T) -> u32 {
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(value);
                index
            }
            None => {
                self.slots.push(Some(value));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_name.insert_unique(hash, (hash, index), |entry| entry.0);
        index
    }

    pub(crate) fn remove(&mut self, hash: u64, index: u32) -> Option<T> {
        if let Ok(entry) = self.by_name.find_entry(hash, |entry| entry.1 == index) {
            entry.remove();
            self.free.push(index);
            return self.slots[index as usize].take();
        }
        None
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Slots that were ever used: indices are below.
    pub(crate) fn slots_len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Named for &str {
        fn name(&self) -> &str {
            self
        }
    }

    #[test]
    fn names_of_one_hash_are_told_apart() {
        let mut registry = Registry::new();
        let places = ["a", "b", "c"].map(|name| registry.insert(7, name));
        let found = |registry: &Registry<&str>| ["a", "b", "c", "d"].map(|name| registry.find(7, name));
        assert_eq!(found(&registry), [Some(places[0]), Some(places[1]), Some(places[2]), None]);
        assert_eq!(registry.remove(7, places[1]), Some("b"));
        assert_eq!(found(&registry), [Some(places[0]), None, Some(places[2]), None]);
    }
}
