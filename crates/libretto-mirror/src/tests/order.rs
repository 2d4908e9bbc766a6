//! In whichever order events of several objects arrive, and however often, the mirror ends the same.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Everything that happens to a small family: the last version of each object, or its deletion, wins.
fn history() -> Vec<(String, Value)> {
    let mut events = Vec::new();
    for version in [1_u64, 5] {
        let mut object = thing("a", version);
        object["spec"]["size"] = json!(version);
        events.push(("apply".to_owned(), object));
    }
    let mut set = child("ReplicaSet", "rs", Some("u-deploy"), 2);
    set["apiVersion"] = json!("apps/v1");
    events.push(("apply".to_owned(), set));
    let mut deployment = child("Deployment", "deploy", Some("a"), 3);
    deployment["apiVersion"] = json!("apps/v1");
    events.push(("apply".to_owned(), deployment));
    for name in ["p", "q", "r"] {
        for version in [4_u64, 6, 8] {
            let mut pod = child("Pod", name, Some("u-rs"), version);
            pod["status"]["podIP"] = json!(format!("10.0.0.{version}"));
            events.push(("apply".to_owned(), pod));
        }
    }
    events.push(("delete".to_owned(), child("Pod", "q", None, 9)));
    events
}

fn play(mirror: &mut Mirror, event: &(String, Value)) {
    let (what, object) = event;
    if what == "apply" {
        apply(mirror, object);
    } else {
        let uid = object["metadata"]["uid"].as_str().unwrap();
        delete(
            mirror,
            "v1/Pod",
            object["metadata"]["name"].as_str().unwrap(),
            Some(uid),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_end_does_not_depend_on_the_order(
        order in Just((0..history().len()).collect::<Vec<_>>()).prop_shuffle(),
        twice in proptest::collection::vec(0..history().len(), 0..6),
    ) {
        let history = history();
        let mut calm = mirror();
        for event in &history {
            play(&mut calm, event);
        }
        let mut wild = mirror();
        for index in order.iter().chain(&twice) {
            play(&mut wild, &history[*index]);
        }
        prop_assert_eq!(snapshot(&calm, "a"), snapshot(&wild, "a"));
        prop_assert_eq!(values(&snapshot(&wild, "a"), "pods", "ip"), ["10.0.0.8", "10.0.0.8"]);
    }
}
