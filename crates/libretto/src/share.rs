//! Which instances a runtime takes care of when another one, with another revision of the package, takes the rest.

use std::collections::BTreeSet;

use libretto_api::object::InstanceRef;
use sha2::{Digest as _, Sha256};

/// A Kind by group and name, whatever its version: only one operator may take care of an instance.
pub type Kind = (String, String);

/// Part of the instances, by a hash of their uid: who belongs to it does not change when others come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    #[default]
    All,
    /// Hashes up to and including this one.
    UpTo(u64),
    /// Hashes above this one.
    Above(u64),
    Nobody,
}

/// A part of the instances, without some namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    pub part: Part,
    /// Namespaces with an operator of their own, for a Kind by its group and name: a process may run packages of several.
    pub except: BTreeSet<(Kind, String)>,
}

impl Share {
    pub fn nobody() -> Self {
        Self {
            part: Part::Nobody,
            except: BTreeSet::new(),
        }
    }

    pub fn has(&self, instance: &InstanceRef) -> bool {
        self.part.has(hash(&instance.uid)) && !self.leaves(instance)
    }

    fn leaves(&self, instance: &InstanceRef) -> bool {
        self.except.iter().any(|((group, kind), namespace)| {
            *namespace == instance.namespace
                && *kind == instance.gvk.kind
                && *group == instance.gvk.group
        })
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            part: self.part.and(other.part),
            except: self.except.union(&other.except).cloned().collect(),
        }
    }
}

impl Part {
    fn has(self, hash: u64) -> bool {
        match self {
            Self::All => true,
            Self::UpTo(boundary) => hash <= boundary,
            Self::Above(boundary) => hash > boundary,
            Self::Nobody => false,
        }
    }

    /// Those that are in both; of a lower and an upper part that overlap, nobody: it is for a moment only, and too few is safe.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, part) | (part, Self::All) => part,
            (Self::UpTo(one), Self::UpTo(two)) => Self::UpTo(one.min(two)),
            (Self::Above(one), Self::Above(two)) => Self::Above(one.max(two)),
            _ => Self::Nobody,
        }
    }
}

/// Where an instance stands among all; spread evenly, and the same everywhere and always.
pub fn hash(uid: &str) -> u64 {
    let digest = Sha256::digest(uid);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use libretto_api::object::Gvk;

    use super::*;

    fn instance(namespace: &str, uid: &str) -> InstanceRef {
        InstanceRef {
            package: "p".into(),
            gvk: Gvk::new("example.dev", "v1", "Thing"),
            namespace: namespace.into(),
            name: uid.into(),
            uid: uid.into(),
        }
    }

    #[test]
    fn every_instance_is_in_one_of_two_parts() {
        let boundary = hash("boundary");
        let share = |part| Share {
            part,
            except: BTreeSet::new(),
        };
        for number in 0..100 {
            let instance = instance("a", &format!("uid-{number}"));
            let lower = share(Part::UpTo(boundary)).has(&instance);
            let upper = share(Part::Above(boundary)).has(&instance);
            assert!(lower != upper, "{instance}");
            assert!(share(Part::All).has(&instance));
            assert!(!Share::nobody().has(&instance));
        }
        assert!(share(Part::UpTo(boundary)).has(&instance("a", "boundary")));
    }

    #[test]
    fn namespaces_of_others_are_left_out() {
        let share = Share {
            part: Part::All,
            except: [(
                ("example.dev".to_owned(), "Thing".to_owned()),
                "b".to_owned(),
            )]
            .into(),
        };
        assert!(share.has(&instance("a", "x")));
        assert!(!share.has(&instance("b", "x")));
        let mut other = instance("b", "x");
        other.gvk.kind = "Other".into();
        assert!(share.has(&other), "another package's Kind is not meant");
    }

    #[test]
    fn what_is_in_both_is_in_each() {
        let parts = [
            Part::All,
            Part::UpTo(10),
            Part::UpTo(20),
            Part::Above(10),
            Part::Above(20),
            Part::Nobody,
        ];
        for one in parts {
            for two in parts {
                for hash in [5, 10, 15, 20, 25] {
                    if one.and(two).has(hash) {
                        assert!(one.has(hash) && two.has(hash), "{one:?} {two:?} {hash}");
                    }
                }
            }
        }
    }
}
