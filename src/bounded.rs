//! A list of mistakes that keeps the first ones and counts the rest, so that a report about a bad document stays short. Pure.

/// At most `MOST` entries, and the number of further ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounded<T, const MOST: usize> {
    kept: Vec<T>,
    more: usize,
}

impl<T, const MOST: usize> Default for Bounded<T, MOST> {
    fn default() -> Self {
        Self { kept: Vec::new(), more: 0 }
    }
}

impl<T, const MOST: usize> Bounded<T, MOST> {
    /// Keeps an entry, or counts it.
    pub(crate) fn push(&mut self, entry: T) {
        if self.kept.len() < MOST {
            self.kept.push(entry);
        } else {
            self.more += 1;
        }
    }

    /// Moves the entries of `other` behind its own.
    pub(crate) fn append(&mut self, other: Self) {
        other.kept.into_iter().for_each(|entry| self.push(entry));
        self.more += other.more;
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The kept entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.kept.iter()
    }

    /// The kept entries. If there are more, the last one is `more` with their number.
    pub(crate) fn into_vec(mut self, more: impl FnOnce(usize) -> T) -> Vec<T> {
        if self.more > 0 {
            self.kept.push(more(self.more));
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entries_are_kept_and_the_others_counted() {
        let list = |entries: std::ops::Range<usize>| {
            let mut list = Bounded::<usize, 3>::default();
            entries.for_each(|entry| list.push(entry));
            list
        };
        assert!(list(0..0).is_empty());
        assert_eq!(list(0..3).into_vec(|_| 99), [0, 1, 2]);
        let mut both = list(0..2);
        both.append(list(10..15));
        assert_eq!(both.into_vec(|more| more), [0, 1, 10, 4]);
    }
}
