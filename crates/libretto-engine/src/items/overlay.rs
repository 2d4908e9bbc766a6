//! Patches of what the same package applies.
//!
//! One manager holds all of an instance's fields, and a server-side apply names all fields of its manager: two applies of one object
//! would take each other's fields away. A patch of an object that another rule applies is therefore laid over the manifest before
//! it is applied.

use std::{collections::BTreeMap, sync::Arc};

use libretto_api::intent::Effect;
use libretto_mirror::{canonical_json, digest};
use serde_json::Value;

use super::{Item, RuleItems};
use crate::compile::Action;

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

/// As a strategic merge would: maps by key, lists by `name` where every entry has one, everything else as a whole.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(over)) if named(base) && named(over) => {
            for item in over {
                match base.iter_mut().find(|known| known["name"] == item["name"]) {
                    Some(known) => merge(known, item),
                    None => base.push(item.clone()),
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

fn named(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| item["name"].is_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_of_named_things_are_merged_and_others_replaced() {
        let mut base = json!({
            "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}],
            "rules": [{"host": "x", "port": 1}, {"host": "y"}],
        });
        let over = json!({
            "containers": [{"name": "b", "image": "2"}, {"name": "c"}],
            "rules": [{"host": "x", "port": 2}],
        });
        merge(&mut base, &over);
        assert_eq!(
            base,
            json!({
                "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}],
                "rules": [{"host": "x", "port": 2}],
            })
        );
    }
}
