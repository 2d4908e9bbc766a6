//! Patches of what the same package applies.
//!
//! One manager holds all of an instance's fields, and a server-side apply names all fields of its manager: two applies of one object
//! would take each other's fields away. A patch of an object that another rule applies is therefore laid over the manifest before
//! it is applied.

use std::{collections::BTreeMap, sync::Arc};

use libretto_api::intent::Effect;
use libretto_mirror::{canonical_json, digest};

use super::{Item, RuleItems};
use crate::{compile::Action, merge::merge};

/// Moves patches of applied objects into the items that apply them.
pub(super) fn lay(rules: &mut [RuleItems<'_>]) {
    let patches = |rule: &RuleItems<'_>| {
        matches!(rule.rule.action, Action::Patch(_)) && !rule.items.is_empty()
    };
    if !rules.iter().any(patches) {
        return;
    }
    let mut applied: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (rule, items) in rules.iter().enumerate() {
        if matches!(items.rule.action, Action::Patch(_)) {
            continue;
        }
        for (index, item) in items.items.iter().enumerate() {
            if item.object.is_some() {
                applied.insert(item.key.clone(), (rule, index));
            }
        }
    }
    for patching in 0..rules.len() {
        let ours = |item: &Item| item.object.is_some() && applied.contains_key(&item.key);
        if !matches!(rules[patching].rule.action, Action::Patch(_))
            || !rules[patching].items.iter().any(ours)
        {
            continue;
        }
        let items = Arc::clone(&rules[patching].items);
        let (inside, outside): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| ours(item));
        rules[patching].items = Arc::new(outside.into_iter().cloned().collect());
        for patch in inside {
            let (rule, index) = applied[&patch.key];
            let target = &mut Arc::make_mut(&mut rules[rule].items)[index];
            if let (Effect::Apply { object, .. }, Effect::Patch { object: fields, .. }) =
                (&mut target.effect, &patch.effect)
            {
                merge(object, fields);
                // As of any other object: what is the same as before is not applied again.
                let mut ours = object.clone();
                for path in &rules[rule].rule.ignore {
                    path.remove(&mut ours);
                }
                target.fingerprint = digest(canonical_json(&ours).as_bytes());
            }
        }
    }
}
