//! How a new revision reaches the instances: wave by wave, and back at once. Pure.

use libretto_api::{installation::Wave, intent::Millis};
use serde::{Deserialize, Serialize};

use crate::share::Part;

/// How far an installation is; kept in its status, so that whoever comes next goes on from there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// What instances have that no rollout has reached; empty before the first.
    pub revision: String,
    /// What they had before; back to it is at once.
    pub former: Option<String>,
    pub rollout: Option<Rollout>,
}

/// A rollout under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    pub to: String,
    /// Index of the wave that is being made or soaks.
    pub wave: usize,
    /// Hash of the last instance that has the new revision.
    #[serde(with = "hex")]
    pub boundary: u64,
    /// Since when the wave is fine.
    // Written as null, so that a merge takes a former time away.
    #[serde(default)]
    pub good_since: Option<Millis>,
}

/// What the next step depends on.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The revision that is wanted.
    pub target: &'a str,
    pub waves: &'a [Wave],
    /// Milliseconds that a wave must be fine.
    pub soak: Millis,
    /// Hashes of the instances, in any order.
    pub hashes: &'a [u64],
    /// No instance that has the new revision is evaluated badly, and nobody asked to wait.
    pub fine: bool,
    /// No further wave begins.
    pub paused: bool,
    pub now: Millis,
}

/// The next step.
#[must_use]
pub fn next(standing: &Standing, situation: &Situation<'_>) -> Standing {
    let target = situation.target;
    let rests = |former: Option<&str>| Standing {
        revision: target.to_owned(),
        former: former.map(str::to_owned),
        rollout: None,
    };
    let Some(rollout) = &standing.rollout else {
        if standing.revision == target {
            return standing.clone();
        }
        // Before the first revision there is nothing to be careful with. Back is at once: what is wrong now is known, and what
        // was before is known to work.
        if standing.revision.is_empty() || standing.former.as_deref() == Some(target) {
            return rests(None);
        }
        return with(standing, begin(situation, 0));
    };
    if target == standing.revision {
        return Standing {
            rollout: None,
            ..standing.clone()
        };
    }
    // Those that already have something new go first with what is newer still.
    if target != rollout.to {
        return with(standing, begin(situation, rollout.boundary));
    }
    let mut rollout = rollout.clone();
    if !situation.fine {
        rollout.good_since = None;
        return with(standing, rollout);
    }
    let since = *rollout.good_since.get_or_insert(situation.now);
    if situation.now - since < situation.soak {
        return with(standing, rollout);
    }
    if rollout.boundary == u64::MAX {
        return rests(Some(&standing.revision));
    }
    if !situation.paused {
        rollout.wave += 1;
        rollout.boundary = boundary(situation, rollout.wave, rollout.boundary);
        rollout.good_since = None;
    }
    with(standing, rollout)
}

/// When to look again although nothing happens.
pub fn wake_at(standing: &Standing, soak: Millis) -> Option<Millis> {
    Some(standing.rollout.as_ref()?.good_since? + soak)
}

/// Whose instances run what: revision and part.
pub fn parts(standing: &Standing) -> Vec<(String, Part)> {
    match &standing.rollout {
        None if standing.revision.is_empty() => Vec::new(),
        None => vec![(standing.revision.clone(), Part::All)],
        Some(rollout) if rollout.boundary == u64::MAX => vec![(rollout.to.clone(), Part::All)],
        Some(rollout) => vec![
            (standing.revision.clone(), Part::Above(rollout.boundary)),
            (rollout.to.clone(), Part::UpTo(rollout.boundary)),
        ],
    }
}

fn begin(situation: &Situation<'_>, at_least: u64) -> Rollout {
    Rollout {
        to: situation.target.to_owned(),
        wave: 0,
        boundary: boundary(situation, 0, at_least),
        good_since: None,
    }
}

fn with(standing: &Standing, rollout: Rollout) -> Standing {
    Standing {
        rollout: Some(rollout),
        ..standing.clone()
    }
}

/// The hash up to which the wave goes; never back, and everybody after the last wave.
fn boundary(situation: &Situation<'_>, wave: usize, at_least: u64) -> u64 {
    let Some(wave) = situation.waves.get(wave) else {
        return u64::MAX;
    };
    let mut hashes = situation.hashes.to_vec();
    hashes.sort_unstable();
    let count = wave.of(hashes.len());
    if count >= hashes.len() {
        return u64::MAX;
    }
    hashes[count - 1].max(at_least)
}

/// A number that JSON's own would cut.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WAVES: &[Wave] = &[Wave::Count(1), Wave::Percent(50)];
    const HASHES: &[u64] = &[40, 10, 30, 20];

    fn situation(target: &str) -> Situation<'_> {
        Situation {
            target,
            waves: WAVES,
            soak: 10,
            hashes: HASHES,
            fine: true,
            paused: false,
            now: 100,
        }
    }

    fn at(revision: &str, rollout: Option<(&str, usize, u64, Option<Millis>)>) -> Standing {
        Standing {
            revision: revision.to_owned(),
            former: None,
            rollout: rollout.map(|(to, wave, boundary, good_since)| Rollout {
                to: to.to_owned(),
                wave,
                boundary,
                good_since,
            }),
        }
    }

    #[test]
    fn the_first_revision_is_everywhere_at_once() {
        let standing = next(&Standing::default(), &situation("a"));
        assert_eq!(standing, at("a", None));
        assert_eq!(parts(&standing), [("a".to_owned(), Part::All)]);
        assert_eq!(parts(&Standing::default()), []);
    }

    #[test]
    fn waves_follow_one_another_when_each_has_soaked() {
        let first = next(&at("a", None), &situation("b"));
        assert_eq!(first, at("a", Some(("b", 0, 10, None))));
        assert_eq!(
            parts(&first),
            [
                ("a".to_owned(), Part::Above(10)),
                ("b".to_owned(), Part::UpTo(10)),
            ]
        );
        let fine = next(&first, &situation("b"));
        assert_eq!(fine, at("a", Some(("b", 0, 10, Some(100)))));
        assert_eq!(wake_at(&fine, 10), Some(110));
        let later = |now| Situation {
            now,
            ..situation("b")
        };
        assert_eq!(next(&fine, &later(109)), fine, "not long enough");
        let second = next(&fine, &later(110));
        assert_eq!(second, at("a", Some(("b", 1, 20, None))));
        let third = next(&next(&second, &later(120)), &later(130));
        assert_eq!(third, at("a", Some(("b", 2, u64::MAX, None))));
        assert_eq!(parts(&third), [("b".to_owned(), Part::All)]);
        let last = next(&next(&third, &later(140)), &later(150));
        assert_eq!((last.revision.as_str(), &last.rollout), ("b", &None));
        assert_eq!(next(&last, &later(160)), last);
        // Back to what was before needs no waves; forward again does.
        let back = next(&last, &situation("a"));
        assert_eq!(back, at("a", None));
        assert!(next(&back, &situation("b")).rollout.is_some());
    }

    #[test]
    fn a_wave_that_is_not_fine_goes_no_further() {
        let soaking = at("a", Some(("b", 0, 10, Some(50))));
        let bad = Situation {
            fine: false,
            ..situation("b")
        };
        assert_eq!(next(&soaking, &bad), at("a", Some(("b", 0, 10, None))));
        let paused = Situation {
            paused: true,
            ..situation("b")
        };
        assert_eq!(next(&soaking, &paused), soaking);
    }

    #[test]
    fn back_is_at_once_and_forward_begins_with_those_that_are_ahead() {
        let half = at("a", Some(("b", 1, 20, None)));
        assert_eq!(next(&half, &situation("a")), at("a", None));
        let newer = next(&half, &situation("c"));
        assert_eq!(newer, at("a", Some(("c", 0, 20, None))));
    }

    #[test]
    fn without_waves_or_instances_a_rollout_is_one_step() {
        let none = Situation {
            waves: &[],
            ..situation("b")
        };
        assert_eq!(
            next(&at("a", None), &none).rollout.unwrap().boundary,
            u64::MAX
        );
        let nobody = Situation {
            hashes: &[],
            ..situation("b")
        };
        assert_eq!(
            next(&at("a", None), &nobody).rollout.unwrap().boundary,
            u64::MAX
        );
    }

    #[test]
    fn a_standing_survives_json() {
        let rollout = at("a", Some(("b", 1, u64::MAX - 1, Some(5)))).rollout;
        let text = serde_json::to_string(&rollout).unwrap();
        assert!(text.contains("\"fffffffffffffffe\""), "{text}");
        assert_eq!(
            serde_json::from_str::<Option<Rollout>>(&text).unwrap(),
            rollout
        );
    }
}
