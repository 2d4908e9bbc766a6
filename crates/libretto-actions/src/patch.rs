//! Server-side apply, forced only if the package says so, of some fields of an object that the instance does not own.
//!
//! Never creates: the live object's uid travels with the patch, so that neither an absent object nor a same-named successor gets it.
//! A patch that sets nothing releases what an earlier one set.

use kube::api::{Patch, PatchParams};
use libretto_api::{
    intent::{Failure, FailureKind, Outcome},
    object::field_manager,
};
use serde_json::Value;

use crate::{
    failed,
    kube::{Kube, object_ref},
    secret::Resolver,
};

pub(crate) async fn patch(
    kube: &Kube,
    resolver: &Resolver<'_>,
    object: &Value,
    force: bool,
) -> Result<Outcome, Failure> {
    let target = object_ref(object)?;
    let live = kube
        .get(&target)
        .await
        .map_err(|error| error.failure(&format!("read {target}")))?;
    let Some(live) = live else {
        if releases(object) {
            return Ok(Outcome::Absent);
        }
        return Err(failed(
            FailureKind::Refused,
            format!("patch {target}: it does not exist (a patch never creates)"),
        ));
    };
    let mut body = resolver.object(object).await?;
    body["metadata"]["uid"] = live["metadata"]["uid"].clone();
    let mut params = PatchParams::apply(&field_manager(&resolver.instance().package));
    params.force = force;
    let object = kube
        .patch(&target, None, &params, &Patch::Apply(&body))
        .await
        .map_err(|error| error.failure(&format!("patch {target}")))?;
    Ok(Outcome::Done {
        object: Some(object),
    })
}

/// The patch names the object and sets nothing.
fn releases(object: &Value) -> bool {
    let fields = object.as_object().map_or(0, serde_json::Map::len);
    let metadata = object["metadata"].as_object();
    fields == 3
        && metadata.is_some_and(|metadata| {
            metadata
                .keys()
                .all(|key| matches!(key.as_str(), "name" | "namespace"))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_release_sets_nothing() {
        for (object, expected) in [
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "y"}}),
                true,
            ),
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}}}),
                false,
            ),
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}}),
                false,
            ),
        ] {
            assert_eq!(releases(&object), expected, "{object}");
        }
    }
}
