//! Values that many jobs share, by small keys; one is there for as long as anybody uses it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// A value's key. Another value may have it once nobody uses this one.
pub type Key = u32;

#[derive(Debug)]
pub struct Interned<T> {
    keys: HashMap<Arc<T>, Key>,
    /// The value, and how often it is used.
    slots: Vec<Option<(Arc<T>, u32)>>,
    free: Vec<Key>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { keys: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<T: Eq + Hash> Interned<T> {
    /// The value's key, which is used once more now.
    pub fn take(&mut self, value: T) -> Key {
        if let Some(key) = self.keys.get(&value).copied() {
            self.again(key);
            return key;
        }
        let value = Arc::new(value);
        let slot = Some((Arc::clone(&value), 1));
        let key = match self.free.pop() {
            Some(key) => {
                if let Some(place) = self.slots.get_mut(key as usize) {
                    *place = slot;
                }
                key
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.keys.insert(value, key);
        key
    }

    /// Uses a key once more.
    pub fn again(&mut self, key: Key) {
        if let Some(Some((_, uses))) = self.slots.get_mut(key as usize) {
            *uses = uses.saturating_add(1);
        }
    }

    /// Uses a key once less.
    pub fn give_back(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(key as usize) else { return };
        let Some((value, uses)) = slot else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.keys.remove(value);
            *slot = None;
            self.free.push(key);
        }
    }

    /// What a key stands for.
    pub fn get(&self, key: Key) -> Option<&Arc<T>> {
        self.slots.get(key as usize)?.as_ref().map(|(value, _)| value)
    }

    /// All that are used.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().zip(0..).filter_map(|(slot, key)| Some((key, &*slot.as_ref()?.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_key_while_it_is_used_and_its_place_is_used_again() {
        let mut all: Interned<&str> = Interned::default();
        let (a, b) = (all.take("a"), all.take("b"));
        assert_eq!((all.take("a"), all.iter().count()), (a, 2));
        all.give_back(a);
        assert_eq!(all.get(a).map(|value| **value), Some("a"), "used once more");
        all.give_back(a);
        assert_eq!(all.get(a), None);
        assert_eq!(all.take("c"), a);
        assert_eq!(all.get(b).map(|value| **value), Some("b"));
        all.give_back(7);
    }
}
