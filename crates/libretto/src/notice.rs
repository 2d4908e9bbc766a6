//! What stays undone until somebody does something: told in the log of every command, and once, not at each try.
//!
//! The log filter lets warnings of this module through where others are held back.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What was told last, by what it was about.
#[derive(Debug, Default)]
pub struct Notices {
    told: Mutex<HashMap<String, String>>,
}

impl Notices {
    /// Tells it, unless it is what was told last about the same. Bounded by the instances there are.
    pub fn tell(&self, about: &str, text: &str) -> bool {
        let former = self.told.lock().insert(about.to_owned(), text.to_owned());
        let news = former.as_deref() != Some(text);
        if news {
            warn(text);
        }
        news
    }

    /// It is over, or what it was about is gone: the next time is told again.
    pub fn forget(&self, about: &str) {
        self.told.lock().remove(about);
    }
}

/// Tells it every time.
pub fn warn(text: &str) {
    tracing::warn!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_until_it_is_over() {
        let notices = Notices::default();
        assert!(notices.tell("a", "refused"));
        assert!(!notices.tell("a", "refused"));
        assert!(notices.tell("b", "refused"));
        assert!(notices.tell("a", "refused for another reason"));
        notices.forget("a");
        assert!(notices.tell("a", "refused for another reason"));
    }
}
