//! Structures laid over one another.

use serde_json::Value;

/// As a strategic merge would: maps by key, lists by `name` where every entry has one, everything else as a whole.
pub(crate) fn merge(base: &mut Value, over: &Value) {
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
