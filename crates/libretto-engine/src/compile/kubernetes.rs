//! `with:` of the calls `kube.delete`, `kube.scale`, `kube.restart` and `kube.evict`: what is done to an object of the instance's
//! namespace.

use libretto_api::object::Gvk;

use super::{Action, Check, sense::required};
use crate::{template::Names, yaml::Node};

/// The call, without `kube.`.
pub(super) fn call(
    check: &mut Check<'_>,
    call: &str,
    with: &Node,
    place: &str,
    names: &Names,
) -> Option<Action> {
    if call == "evict" {
        check.only(with, place, &["name", "uid"]);
        return Some(Action::Evict {
            name: required(check, with, place, "name", names)?,
            uid: with.get("uid").map(|node| check.tree(node, names)),
        });
    }
    check.only(
        with,
        place,
        match call {
            "delete" => &["kind", "name", "uid"],
            "scale" => &["kind", "name", "replicas"],
            _ => &["kind", "name"],
        },
    );
    let at = with.get("kind").map_or(with.at, |node| node.at);
    let kind = check
        .required_text(with, place, "kind")
        .and_then(|kind| check.gvk(&kind, at));
    let name = required(check, with, place, "name", names);
    match call {
        "delete" => {
            let uid = with.get("uid").map(|node| check.tree(node, names));
            Some(Action::Delete {
                kind: kind?,
                name: name?,
                uid,
            })
        }
        "scale" => {
            let replicas = required(check, with, place, "replicas", names);
            Some(Action::Scale {
                kind: kind?,
                name: name?,
                replicas: replicas?,
            })
        }
        _ => {
            let rolled =
                ["Deployment", "StatefulSet", "DaemonSet"].map(|kind| Gvk::new("apps", "v1", kind));
            if let Some(kind) = &kind
                && !rolled.contains(kind)
            {
                check.wrong_hint(
                    at,
                    format!("{place}: {kind} has no pods to replace one after another"),
                    "apps/v1/Deployment, apps/v1/StatefulSet or apps/v1/DaemonSet",
                );
            }
            Some(Action::Restart {
                kind: kind?,
                name: name?,
            })
        }
    }
}
