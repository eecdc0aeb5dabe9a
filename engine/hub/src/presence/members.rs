//! The names of a channel's members, sorted, each with the number of shards it is on.
//!
//! Most channels have few members, and there are many channels: few names are a list of just their size, and only many
//! are a tree, whose smallest node has room for eleven.

use std::collections::BTreeMap;
use std::ops::Bound;

/// More than these are a tree.
const FEW_MAX: usize = 8;

/// Sorted names.
#[derive(Debug)]
pub(crate) enum Members {
    Few(Vec<(Box<str>, u8)>),
    Many(BTreeMap<Box<str>, u8>),
}

impl Members {
    pub(crate) fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Few(few) => place(few, name).is_ok(),
            Self::Many(many) => many.contains_key(name),
        }
    }

    /// The number of shards of one.
    pub(crate) fn find_mut(&mut self, name: &str) -> Option<&mut u8> {
        match self {
            Self::Few(few) => {
                let place = place(few, name).ok()?;
                Some(&mut few[place].1)
            }
            Self::Many(many) => many.get_mut(name),
        }
    }

    /// One that was not there, on one shard.
    pub(crate) fn insert(&mut self, name: &str) {
        if let Self::Few(few) = self
            && few.len() == FEW_MAX
        {
            *self = Self::Many(few.drain(..).collect());
        }
        match self {
            Self::Few(few) => {
                let Err(place) = place(few, name) else { return };
                few.reserve_exact(1);
                few.insert(place, (name.into(), 1));
            }
            Self::Many(many) => {
                many.insert(name.into(), 1);
            }
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        match self {
            Self::Few(few) => {
                if let Ok(place) = place(few, name) {
                    few.remove(place);
                }
            }
            Self::Many(many) => {
                many.remove(name);
                if many.is_empty() {
                    *self = Self::new();
                }
            }
        }
    }

    /// Those behind a name, or all.
    pub(crate) fn behind(&self, name: Option<&str>) -> impl Iterator<Item = &str> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        let (few, many) = match self {
            Self::Few(few) => {
                let start =
                    name.map_or(0, |name| place(few, name).map_or_else(|place| place, |place| place + 1));
                (Some(few[start..].iter().map(|(name, _)| &**name)), None)
            }
            Self::Many(many) => {
                (None, Some(many.range::<str, _>((from, Bound::Unbounded)).map(|(name, _)| &**name)))
            }
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

fn place(few: &[(Box<str>, u8)], name: &str) -> Result<usize, usize> {
    few.binary_search_by(|(known, _)| (**known).cmp(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_same_to_others() {
        let mut twin = BTreeMap::new();
        let mut members = Members::new();
        let mut random = 1u64;
        for round in 0..20_000 {
            // xorshift64 (Marsaglia 2003).
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Now and then many, now and then few.
            let name = format!("p{:02}", random % if round / 500 % 2 == 0 { 30 } else { 6 });
            match (members.find_mut(&name), random >> 32 & 3) {
                (Some(shards), 0) => {
                    *shards += 1;
                    *twin.get_mut(&name).expect("it is there") += 1;
                }
                (Some(_), _) => {
                    members.remove(&name);
                    twin.remove(&name);
                }
                (None, _) => {
                    members.insert(&name);
                    twin.insert(name.clone(), 1u8);
                }
            }
            assert_eq!((members.len(), members.is_empty()), (twin.len(), twin.is_empty()));
            assert_eq!(members.contains(&name), twin.contains_key(&name));
            assert_eq!(members.find_mut(&name).copied(), twin.get(&name).copied());
            assert!(members.behind(None).eq(twin.keys().map(String::as_str)));
            let behind = twin.range::<str, _>((Bound::Excluded(name.as_str()), Bound::Unbounded));
            assert!(members.behind(Some(&name)).eq(behind.map(|(name, _)| name.as_str())));
        }
    }
}
