//! Which installation works where. Pure.

use std::collections::{BTreeMap, BTreeSet};

use libretto_api::installation::InstallationSpec;
use libretto_mirror::ScopeMode;

use crate::share::Kind;

/// What a place is for: one namespace, or all that nobody else has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    Everywhere,
    Namespace(String),
}

impl Spot {
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Everywhere => None,
            Self::Namespace(name) => Some(name),
        }
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everywhere => f.write_str("everywhere"),
            Self::Namespace(name) => write!(f, "in namespace {name}"),
        }
    }
}

/// Instances of a Kind at a spot are somebody's.
#[derive(Debug, Clone)]
pub struct Claim {
    /// For messages: `installation cache`.
    pub who: String,
    pub kind: Kind,
    pub spot: Spot,
    pub mode: ScopeMode,
}

/// An installation as far as its place goes.
#[derive(Debug)]
pub struct Asked<'a> {
    pub name: &'a str,
    pub spec: &'a InstallationSpec,
    pub kind: Kind,
    /// Its Kind has an annotation that tells instances of a cluster-wide operator from others.
    pub annotated: bool,
}

/// Where an installation works.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placed {
    pub spots: BTreeSet<Spot>,
    /// Spots that it does not get, and who has them.
    pub taken: BTreeMap<Spot, String>,
    /// Namespaces that it names and that are not there.
    pub absent: Vec<String>,
}

/// Gives each installation its spots, the elder first; `own` are those of the process itself. Also returns every claim.
pub fn place<'a>(
    own: &[Claim],
    asked: impl IntoIterator<Item = Asked<'a>>,
    namespaces: &BTreeMap<String, BTreeMap<String, String>>,
) -> (BTreeMap<String, Placed>, Vec<Claim>) {
    let mut claims = own.to_vec();
    let mut placed = BTreeMap::new();
    for asked in asked {
        let mut result = Placed::default();
        if let Some(wanted) = &asked.spec.namespaces {
            let names = wanted.names.iter();
            let absent = names.filter(|name| !namespaces.contains_key(*name));
            result.absent = absent.cloned().collect();
        }
        for spot in spots(asked.spec, namespaces) {
            let claim = Claim {
                who: format!("installation {}", asked.name),
                kind: asked.kind.clone(),
                mode: mode(&spot, asked.annotated),
                spot,
            };
            match claims.iter().find(|other| collide(other, &claim)) {
                Some(other) => {
                    result.taken.insert(claim.spot, other.who.clone());
                }
                None => {
                    result.spots.insert(claim.spot.clone());
                    claims.push(claim);
                }
            }
        }
        placed.insert(asked.name.to_owned(), result);
    }
    (placed, claims)
}

/// Namespaces that an operator which works everywhere leaves to others.
pub fn except(claims: &[Claim], kind: &Kind, mode: ScopeMode) -> BTreeSet<(Kind, String)> {
    claims
        .iter()
        .filter(|claim| claim.kind == *kind && !disjoint(claim.mode, mode))
        .filter_map(|claim| Some((kind.clone(), claim.spot.namespace()?.to_owned())))
        .collect()
}

/// Which instances are taken at a spot, where the Kind has an annotation for it.
pub fn mode(spot: &Spot, annotated: bool) -> ScopeMode {
    match spot {
        _ if !annotated => ScopeMode::Any,
        Spot::Everywhere => ScopeMode::Cluster,
        Spot::Namespace(_) => ScopeMode::Namespace,
    }
}

fn spots(
    spec: &InstallationSpec,
    namespaces: &BTreeMap<String, BTreeMap<String, String>>,
) -> BTreeSet<Spot> {
    let Some(wanted) = &spec.namespaces else {
        return [Spot::Everywhere].into();
    };
    namespaces
        .iter()
        .filter(|(name, labels)| wanted.has(name, labels))
        .map(|(name, _)| Spot::Namespace(name.clone()))
        .collect()
}

/// One who works everywhere steps back from a namespace; two at the same spot cannot.
fn collide(one: &Claim, other: &Claim) -> bool {
    one.kind == other.kind && one.spot == other.spot && !disjoint(one.mode, other.mode)
}

fn disjoint(one: ScopeMode, other: ScopeMode) -> bool {
    matches!(
        (one, other),
        (ScopeMode::Cluster, ScopeMode::Namespace) | (ScopeMode::Namespace, ScopeMode::Cluster)
    )
}

#[cfg(test)]
mod tests {
    use libretto_api::installation::Namespaces;

    use super::*;

    fn kind() -> Kind {
        ("example.dev".into(), "Thing".into())
    }

    fn spec(namespaces: Option<Namespaces>) -> InstallationSpec {
        InstallationSpec {
            package: "p".into(),
            namespaces,
            ..InstallationSpec::default()
        }
    }

    fn named(names: &[&str]) -> InstallationSpec {
        spec(Some(Namespaces {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..Namespaces::default()
        }))
    }

    fn namespaces() -> BTreeMap<String, BTreeMap<String, String>> {
        ["a", "b", "c"]
            .iter()
            .map(|&name| {
                let tenant = if name == "c" { "other" } else { "one" };
                let labels = BTreeMap::from([("tenant".to_owned(), tenant.to_owned())]);
                (name.to_owned(), labels)
            })
            .collect()
    }

    fn asked<'a>(name: &'a str, spec: &'a InstallationSpec, annotated: bool) -> Asked<'a> {
        Asked {
            name,
            spec,
            kind: kind(),
            annotated,
        }
    }

    fn spot(name: &str) -> Spot {
        Spot::Namespace(name.into())
    }

    #[test]
    fn namespaces_are_chosen_by_name_or_label() {
        let by_label = spec(Some(Namespaces {
            labels: BTreeMap::from([("tenant".to_owned(), "one".to_owned())]),
            ..Namespaces::default()
        }));
        let (placed, _) = place(&[], [asked("x", &by_label, false)], &namespaces());
        assert_eq!(placed["x"].spots, [spot("a"), spot("b")].into());
        let (placed, _) = place(
            &[],
            [asked("x", &named(&["c", "none"]), false)],
            &namespaces(),
        );
        assert_eq!(placed["x"].spots, [spot("c")].into());
        assert_eq!(placed["x"].absent, ["none"]);
    }

    #[test]
    fn who_works_everywhere_leaves_namespaces_to_those_who_asked_for_them() {
        let (everywhere, tenant) = (spec(None), named(&["b"]));
        for order in [["all", "tenant"], ["tenant", "all"]] {
            let list = order.map(|name| {
                let spec = if name == "all" { &everywhere } else { &tenant };
                asked(name, spec, false)
            });
            let (placed, claims) = place(&[], list, &namespaces());
            assert_eq!(placed["all"].spots, [Spot::Everywhere].into());
            assert_eq!(placed["tenant"].spots, [spot("b")].into());
            assert_eq!(
                except(&claims, &kind(), ScopeMode::Any),
                [(kind(), "b".to_owned())].into()
            );
        }
    }

    #[test]
    fn an_annotation_lets_both_work_in_one_namespace() {
        let (everywhere, tenant) = (spec(None), named(&["b"]));
        let list = [
            asked("all", &everywhere, true),
            asked("tenant", &tenant, true),
        ];
        let (placed, claims) = place(&[], list, &namespaces());
        assert_eq!(placed["all"].spots, [Spot::Everywhere].into());
        assert_eq!(placed["tenant"].spots, [spot("b")].into());
        assert!(except(&claims, &kind(), ScopeMode::Cluster).is_empty());
    }

    #[test]
    fn the_elder_keeps_what_it_has() {
        let (one, two) = (named(&["a", "b"]), named(&["b", "c"]));
        let list = [asked("one", &one, false), asked("two", &two, false)];
        let (placed, _) = place(&[], list, &namespaces());
        assert_eq!(placed["two"].spots, [spot("c")].into());
        assert_eq!(placed["two"].taken[&spot("b")], "installation one");
        let own = Claim {
            who: "this process (--package p)".into(),
            kind: kind(),
            spot: Spot::Everywhere,
            mode: ScopeMode::Any,
        };
        let everywhere = spec(None);
        let (placed, claims) = place(
            &[own],
            [asked("all", &everywhere, false), asked("one", &one, false)],
            &namespaces(),
        );
        assert!(placed["all"].spots.is_empty());
        assert_eq!(
            placed["all"].taken[&Spot::Everywhere],
            "this process (--package p)"
        );
        assert_eq!(placed["one"].spots.len(), 2);
        assert_eq!(except(&claims, &kind(), ScopeMode::Any).len(), 2);
    }
}
