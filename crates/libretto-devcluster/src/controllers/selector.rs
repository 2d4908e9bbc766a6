//! Label selectors of objects (`spec.selector`), matched against labels. Never parses the text form used in requests.

use serde_json::Value;

use super::object::{entries, items, text};

/// Whether a `LabelSelector` matches the object's labels. A null selector matches nothing, an empty one everything.
pub(crate) fn matches(selector: Option<&Value>, object: &Value) -> bool {
    let Some(selector) = selector.filter(|selector| selector.is_object()) else {
        return false;
    };
    let label = |key: &str| {
        object
            .get("metadata")
            .and_then(|metadata| metadata.get("labels"))
            .and_then(|labels| labels.get(key))
            .and_then(Value::as_str)
    };
    entries(selector, "/matchLabels").all(|(key, value)| label(key) == value.as_str())
        && items(selector, "/matchExpressions")
            .iter()
            .all(|expression| satisfied(expression, label(text(expression, "/key"))))
}

/// Whether a plain map of labels (`Service.spec.selector`) is contained in the object's labels. An empty map matches nothing:
/// a service without a selector has its endpoints managed by somebody else.
pub(crate) fn map_matches(selector: Option<&Value>, object: &Value) -> bool {
    let Some(map) = selector
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
    else {
        return false;
    };
    map.iter().all(|(key, value)| {
        object
            .pointer("/metadata/labels")
            .and_then(|labels| labels.get(key))
            == Some(value)
    })
}

/// One requirement, also as node selectors write it (`Gt`, `Lt`).
pub(crate) fn satisfied(expression: &Value, value: Option<&str>) -> bool {
    let listed = || {
        items(expression, "/values")
            .iter()
            .any(|item| item.as_str() == value)
    };
    let bound = || {
        let value: i64 = value?.parse().ok()?;
        let limit: i64 = items(expression, "/values")
            .first()?
            .as_str()?
            .parse()
            .ok()?;
        Some((value, limit))
    };
    match text(expression, "/operator") {
        "In" => value.is_some() && listed(),
        "NotIn" => value.is_none() || !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => bound().is_some_and(|(value, limit)| value > limit),
        "Lt" => bound().is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match_like_kubernetes() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "3"}}});
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, expected) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"matchLabels": {"gone": "x"}}), false),
            (expression("app", "In", json!(["web", "db"])), true),
            (expression("gone", "In", json!(["web"])), false),
            (expression("gone", "NotIn", json!(["web"])), true),
            (expression("app", "NotIn", json!(["web"])), false),
            (expression("app", "Exists", json!(null)), true),
            (expression("app", "DoesNotExist", json!(null)), false),
            (expression("tier", "Gt", json!(["2"])), true),
            (expression("tier", "Lt", json!(["2"])), false),
            (expression("app", "Nonsense", json!(["web"])), false),
        ] {
            assert_eq!(matches(Some(&selector), &object), expected, "{selector}");
        }
        assert!(map_matches(Some(&json!({"app": "web"})), &object));
        assert!(!map_matches(Some(&json!({})), &object));
        assert!(!map_matches(None, &object));
    }
}
