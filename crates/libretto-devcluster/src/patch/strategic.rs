//! Strategic merge patch: what `kubectl apply` (client side), `edit`, `label`, `scale` and `set` send for built-in kinds.
//!
//! Follows upstream's `strategicpatch` with its options for servers: directives are applied, never kept, and nulls delete.

use serde_json::{Map, Value};

use super::{PatchError, go_text};
use crate::schema::{
    TypeSchema,
    node::{Node, Strategy},
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

pub(super) fn strategic(
    schema: &TypeSchema,
    target: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    if matches!(schema, TypeSchema::Custom(_)) {
        return Err(PatchError(
            "strategic merge patch needs a built-in kind; use --type=merge or server-side apply for custom resources".to_owned(),
        ));
    }
    let (Some(target), Some(patch)) = (target.as_object(), patch.as_object()) else {
        return Err(PatchError(
            "a strategic merge patch and its target must be objects".to_owned(),
        ));
    };
    merge_map(target.clone(), patch.clone(), Some(schema.root())).map(Value::Object)
}

fn merge_map(
    mut original: Object,
    mut patch: Object,
    node: Option<&Node>,
) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch
                .into_iter()
                .filter_map(|(name, value)| Some((name, without_directives(value)?)))
                .collect()),
            Some("delete") => Ok(Object::new()),
            // Merging is what happens anyway.
            Some("merge") => merge_map(original, patch, node),
            _ => Err(bad_directive(&directive, &Value::Object(patch))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, node)?;
    for (key, value) in patch {
        let deleting = key.strip_prefix(DELETE_FROM);
        let name = deleting.unwrap_or(&key);
        if value.is_null() {
            original.remove(name);
            continue;
        }
        let field = node.and_then(|node| node.field(name).0);
        let current = original.remove(name);
        let merged = match (current, value) {
            (Some(Value::Array(list)), Value::Array(dropped)) if deleting.is_some() => {
                Some(Value::Array(
                    list.into_iter()
                        .filter(|item| !dropped.contains(item))
                        .collect(),
                ))
            }
            (current, _) if deleting.is_some() => current,
            (Some(Value::Object(old)), Value::Object(new)) if !replaces(field) => {
                Some(Value::Object(merge_map(old, new, field)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) if merges(field) => {
                Some(Value::Array(merge_list(&old, new, field)?.items))
            }
            (_, value) => without_directives(value),
        };
        if let Some(merged) = merged {
            original.insert(name.to_owned(), merged);
        }
    }
    Ok(original)
}

fn strategy(field: Option<&Node>) -> Strategy {
    field.map(|node| node.strategy).unwrap_or_default()
}

fn replaces(field: Option<&Node>) -> bool {
    strategy(field) == Strategy::Replace
}

fn merges(field: Option<&Node>) -> bool {
    strategy(field) == Strategy::Merge
}

fn merge_key(field: Option<&Node>) -> Option<&str> {
    field.and_then(|node| node.merge_key.as_deref())
}

/// `$retainKeys`: of a union, only the named fields stay.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let malformed = || PatchError(super::BAD_RETAIN_KEYS.to_owned());
    let kept = directive.as_array().ok_or_else(malformed)?;
    let listed = |name: &str| kept.iter().any(|value| value.as_str() == Some(name));
    let complete = patch.iter().all(|(name, value)| {
        value.is_null()
            || name.starts_with(DELETE_FROM)
            || name.starts_with(ELEMENT_ORDER)
            || listed(name)
    });
    if !complete {
        return Err(malformed());
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

/// `$setElementOrder/<list>`: merges the list of that name, if any, and puts it in the given order. Takes both out of the patch.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    node: Option<&Node>,
) -> Result<(), PatchError> {
    let names: Vec<String> = patch
        .keys()
        .filter_map(|key| key.strip_prefix(ELEMENT_ORDER))
        .map(str::to_owned)
        .collect();
    for name in names {
        let field = node.and_then(|node| node.field(&name).0);
        let order = take_list(patch, &format!("{ELEMENT_ORDER}{name}"))?.unwrap_or_default();
        let patched = match patch.get(&name) {
            // Deleting the list leaves nothing to order.
            Some(Value::Null) => continue,
            _ => take_list(patch, &name)?,
        };
        let current = take_list(original, &name)?;
        if let Some(patched) = &patched {
            check_order(patched, &order, merge_key(field))?;
        }
        let mut server = current.clone().unwrap_or_default();
        let merged = match (current, patched) {
            (None, None) => continue,
            (Some(current), None) => current,
            (None, Some(patched)) => without_directives_in(patched),
            (Some(current), Some(patched)) if merges(field) => {
                let merged = merge_list(&current, patched, field)?;
                server = merged.server_order;
                merged.items
            }
            (Some(_), Some(patched)) => patched,
        };
        original.insert(
            name,
            Value::Array(ordered(merged, &order, &server, merge_key(field))),
        );
    }
    Ok(())
}

fn take_list(object: &mut Object, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match object.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(PatchError(format!("{name} must be a list, not {other}"))),
    }
}

/// The patched items must appear in the order list, in that order.
fn check_order(patched: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut from = 0;
    for item in patched.iter().filter(|item| item.get(PATCH).is_none()) {
        match order[from..]
            .iter()
            .position(|wanted| same(item, wanted, key))
        {
            Some(found) => from += found + 1,
            None => {
                return Err(PatchError(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    go_text(&Value::from(patched)),
                    go_text(&Value::from(order)),
                )));
            }
        }
    }
    Ok(())
}

/// A merged list.
struct Merged {
    items: Vec<Value>,
    /// What a later `$setElementOrder` takes for the server's order. Upstream deletes and appends in place, so the places of deleted
    /// items go to added ones; which order comes out depends on it.
    server_order: Vec<Value>,
}

fn merge_list(
    original: &[Value],
    patch: Vec<Value>,
    field: Option<&Node>,
) -> Result<Merged, PatchError> {
    let maps = original
        .iter()
        .chain(&patch)
        .filter(|item| item.is_object())
        .count();
    if maps == 0 {
        let mut both = original.to_vec();
        for item in &patch {
            if !both.contains(item) {
                both.push(item.clone());
            }
        }
        let items = ordered(both, &patch, original, None);
        return Ok(Merged {
            items,
            server_order: original.to_vec(),
        });
    }
    if maps != original.len() + patch.len() {
        return Err(PatchError(
            "a merged list must hold only objects or only scalars".to_owned(),
        ));
    }
    let Some(key) = merge_key(field) else {
        return Err(PatchError(
            "cannot merge lists without merge key".to_owned(),
        ));
    };
    let item_node = field.and_then(|node| node.target().items.as_deref());
    let (mut merged, patch) = special_items(original.to_vec(), patch, key)?;
    let remaining = merged.clone();
    for item in &patch {
        let wanted = item.get(key).ok_or_else(|| no_key(item, key))?;
        let position = merged
            .iter()
            .position(|other| other.get(key) == Some(wanted));
        match position {
            Some(position) => {
                if let (Value::Object(old), Value::Object(new)) =
                    (merged[position].take(), item.clone())
                {
                    merged[position] = Value::Object(merge_map(old, new, item_node)?);
                }
            }
            None => merged.extend(without_directives(item.clone())),
        }
    }
    let server_order = merged.iter().take(original.len()).cloned().collect();
    Ok(Merged {
        items: ordered(merged, &patch, &remaining, Some(key)),
        server_order,
    })
}

/// Items that are directives: `$patch: delete` removes the item with the same key, `$patch: replace` all of the original.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut ordinary = Vec::new();
    for item in patch {
        let Some(directive) = item.get(PATCH) else {
            ordinary.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = item.get(key).ok_or_else(|| no_key(&item, key))?;
                original.retain(|other| other.get(key) != Some(gone));
            }
            // The other items of the patch are what the list becomes.
            Some("replace") => original.clear(),
            Some("merge") => {
                return Err(PatchError(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            _ => {
                return Err(bad_directive(directive, &item));
            }
        }
    }
    Ok((original, ordinary))
}

/// Items named by `order` in that order; the others keep their place relative to the server's list.
fn ordered(items: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let index = |list: &[Value], item: &Value| list.iter().position(|other| same(item, other, key));
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) = items
        .into_iter()
        .partition(|item| index(order, item).is_some());
    named.sort_by_key(|item| index(order, item));
    rest.sort_by_key(|item| index(server, item));
    let mut out = Vec::new();
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        match (rest.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => out.extend(rest.next()),
            (None, Some(_)) => out.extend(named.next()),
            (Some(other), Some(next)) => {
                let earlier = match (index(server, other), index(server, next)) {
                    (Some(other), Some(next)) => other < next,
                    _ => false,
                };
                out.extend(if earlier { rest.next() } else { named.next() });
            }
        }
    }
}

fn same(item: &Value, other: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => item.get(key).is_some() && item.get(key) == other.get(key),
        None => item == other,
    }
}

/// The value a patch sets where nothing was before: without directives and nulls; `None` when the directive deletes it.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(object) => {
            if object.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            let kept = object.into_iter().filter(|(name, value)| {
                let directive = name == PATCH
                    || name == RETAIN_KEYS
                    || name.starts_with(DELETE_FROM)
                    || name.starts_with(ELEMENT_ORDER);
                !directive && !value.is_null()
            });
            Some(Value::Object(
                kept.filter_map(|(name, value)| Some((name, without_directives(value)?)))
                    .collect(),
            ))
        }
        Value::Array(items) => Some(Value::Array(without_directives_in(items))),
        scalar => Some(scalar),
    }
}

fn without_directives_in(items: Vec<Value>) -> Vec<Value> {
    items
        .into_iter()
        // An item that is nothing but `$patch: replace` speaks about its list.
        .filter(|item| {
            !item
                .as_object()
                .is_some_and(|object| object.len() == 1 && object.contains_key(PATCH))
        })
        .filter_map(without_directives)
        .collect()
}

fn bad_directive(directive: &Value, patch: &Value) -> PatchError {
    let mut whole = patch.clone();
    whole[PATCH] = directive.clone();
    PatchError(format!(
        "unknown patch type: {} in map: {}",
        go_text(directive),
        go_text(&whole)
    ))
}

fn no_key(item: &Value, key: &str) -> PatchError {
    PatchError(format!(
        "map: {item} does not contain declared merge key: {key}"
    ))
}
