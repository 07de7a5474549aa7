//! Sets of backends, by their numbers.

/// A set of backends. Numbers are small: the places of a gateway's backends in one list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct BackendSet(Vec<u64>);

impl BackendSet {
    /// Adds one.
    pub fn insert(&mut self, backend: usize) {
        let word = backend / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << (backend % 64);
        }
    }

    /// Whether it is one of them.
    pub fn contains(&self, backend: usize) -> bool {
        self.0.get(backend / 64).is_some_and(|bits| bits & (1 << (backend % 64)) != 0)
    }

    /// Whether both have one in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    /// Those of both, from the smallest number on.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        self.0
            .iter()
            .zip(&other.0)
            .zip(0..)
            .flat_map(|((mine, theirs), word)| Bits(mine & theirs).map(move |bit| word * 64 + bit))
    }
}

impl FromIterator<usize> for BackendSet {
    fn from_iter<I: IntoIterator<Item = usize>>(backends: I) -> Self {
        let mut set = Self::default();
        backends.into_iter().for_each(|backend| set.insert(backend));
        set
    }
}

struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sets_have_in_common() {
        let set = |backends: &[usize]| backends.iter().copied().collect::<BackendSet>();
        let (a, b) = (set(&[0, 63, 64, 130]), set(&[63, 65, 130, 500]));
        assert_eq!(a.common(&b).collect::<Vec<_>>(), [63, 130]);
        assert!(a.intersects(&b) && !a.intersects(&set(&[1, 500])) && !a.intersects(&BackendSet::default()));
        assert!(a.contains(64) && !a.contains(65) && !a.contains(1000));
        assert!(BackendSet::default().is_empty() && !a.is_empty());
    }
}
