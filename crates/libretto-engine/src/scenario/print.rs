//! Digests of states. Two that are equal stand for equal states.

use std::hash::{DefaultHasher, Hasher};

/// 128 bits: of the thousands of states of a scenario no two have the same by chance.
pub(crate) type Print = [u64; 2];

/// Two of the standard hashers, of which one is a step ahead of the other.
#[derive(Debug)]
pub(crate) struct PrintHasher(DefaultHasher, DefaultHasher);

impl Default for PrintHasher {
    fn default() -> Self {
        let mut ahead = DefaultHasher::new();
        ahead.write_u64(u64::MAX);
        Self(DefaultHasher::new(), ahead)
    }
}

impl Hasher for PrintHasher {
    fn finish(&self) -> u64 {
        self.0.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
}

impl PrintHasher {
    pub(crate) fn print(&self) -> Print {
        [self.0.finish(), self.1.finish()]
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;

    #[test]
    fn both_halves_follow_from_everything() {
        let print = |value: &[&str]| {
            let mut hasher = PrintHasher::default();
            value.hash(&mut hasher);
            hasher.print()
        };
        assert_eq!(print(&["a", "b"]), print(&["a", "b"]));
        let (one, other) = (print(&["a", "b"]), print(&["ab"]));
        assert!(one[0] != other[0] && one[1] != other[1] && one[0] != one[1]);
    }
}
