//! Who controls whom, by uid, so that a Pod is known to belong to an instance three objects above it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{Hash as _, Hasher},
};

/// Longest controller chain that is followed: Pod, ReplicaSet, Deployment, instance is three; a chain of eight is already a
/// platform of platforms, and a bound is what ends a cycle somebody made by hand.
const DEPTH: usize = 8;

/// Controller references of every object seen, both ways.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    parents: HashMap<Box<str>, Box<str>>,
    children: HashMap<Box<str>, BTreeSet<Box<str>>>,
}

impl Lineage {
    /// Sets an object's controller; whether that is news.
    pub(crate) fn set(&mut self, uid: &str, parent: Option<&str>) -> bool {
        if self.parents.get(uid).map(AsRef::as_ref) == parent {
            return false;
        }
        self.remove(uid);
        if let Some(parent) = parent {
            self.parents.insert(uid.into(), parent.into());
            self.children
                .entry(parent.into())
                .or_default()
                .insert(uid.into());
        }
        true
    }

    /// Forgets an object's controller. What it controls itself stays known: its children outlive it for a moment.
    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(parent) = self.parents.remove(uid)
            && let Some(children) = self.children.get_mut(&parent)
        {
            children.remove(uid);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    /// Feeds who controls whom to the hash.
    pub(crate) fn hash_future(&self, state: &mut impl Hasher) {
        let mut parents: Vec<_> = self.parents.iter().collect();
        parents.sort_unstable();
        parents.hash(state);
    }

    /// The controller of an object.
    pub(crate) fn parent(&self, uid: &str) -> Option<&str> {
        self.parents.get(uid).map(AsRef::as_ref)
    }

    /// The nearest object above for which `wanted` holds.
    pub(crate) fn ancestor<'a>(
        &'a self,
        uid: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<&'a str> {
        let mut current = self.parent(uid)?;
        for _ in 0..DEPTH {
            if wanted(current) {
                return Some(current);
            }
            current = self.parent(current)?;
        }
        None
    }

    /// Every object below, to the same depth.
    pub(crate) fn descendants(&self, uid: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut level = vec![uid];
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for parent in level {
                for child in self.children.get(parent).into_iter().flatten() {
                    if seen.insert(child.as_ref()) {
                        found.push(child.as_ref());
                        next.push(child.as_ref());
                    }
                }
            }
            level = next;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_followed_in_any_order_of_arrival() {
        let mut lineage = Lineage::default();
        assert!(lineage.set("pod", Some("rs")));
        assert_eq!(lineage.ancestor("pod", |uid| uid == "cr"), None);
        assert!(lineage.set("rs", Some("deploy")));
        assert!(lineage.set("deploy", Some("cr")));
        assert!(!lineage.set("deploy", Some("cr")));
        assert_eq!(lineage.ancestor("pod", |uid| uid == "cr"), Some("cr"));
        assert_eq!(lineage.descendants("cr"), ["deploy", "rs", "pod"]);
        lineage.remove("rs");
        assert_eq!(lineage.ancestor("pod", |uid| uid == "cr"), None);
        assert_eq!(lineage.descendants("rs"), ["pod"]);
    }

    #[test]
    fn cycles_and_long_chains_end() {
        let mut lineage = Lineage::default();
        lineage.set("a", Some("b"));
        lineage.set("b", Some("a"));
        assert_eq!(lineage.ancestor("a", |_| false), None);
        assert_eq!(lineage.descendants("a").len(), 2);
        for step in 0..20 {
            lineage.set(&step.to_string(), Some(&(step + 1).to_string()));
        }
        assert_eq!(lineage.ancestor("0", |uid| uid == "8"), Some("8"));
        assert_eq!(lineage.ancestor("0", |uid| uid == "9"), None);
    }
}
