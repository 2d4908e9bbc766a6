//! Custom resources: served with their definition, gone with it, and back after a restart.

use super::*;

#[test]
fn custom_resources_live_and_die_with_their_definition() {
    let api = Api::in_memory();
    assert_eq!(
        api.get(&TOYS, "default", "a").unwrap_err().message,
        "the server could not find the requested resource"
    );
    let definition = api.create(&DEFINITIONS, "", toys(), &by("t")).unwrap();
    let condition = |name: &str| {
        definition["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["type"] == name && one["status"] == "True")
    };
    assert!(
        condition("Established") && condition("NamesAccepted"),
        "{definition:#}"
    );
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    let created = create(&api, &TOYS, toy("a", 1));
    assert_eq!(created["spec"]["colour"], "red");
    assert_eq!(created["metadata"]["generation"], 1);
    let error = api
        .create(&TOYS, "default", toy("b", -1), &by("t"))
        .unwrap_err();
    assert_eq!(error.code, 422, "{error}");
    let beta = Gvr::new("example.org", "v1beta1", "toys");
    assert_eq!(
        api.get(&beta, "default", "a").unwrap()["apiVersion"],
        "example.org/v1beta1"
    );
    let error = api
        .patch(
            &TOYS,
            "default",
            "a",
            Subresource::None,
            Patch::Strategic(json!({})),
            &by("t"),
        )
        .unwrap_err();
    assert_eq!(error.code, 415);
    let scaled = api
        .patch(
            &TOYS,
            "default",
            "a",
            Subresource::Scale,
            Patch::Merge(json!({"spec": {"replicas": 4}})),
            &by("t"),
        )
        .unwrap();
    assert_eq!(scaled["kind"], "Scale");
    let object = api.get(&TOYS, "default", "a").unwrap();
    assert_eq!(
        (
            object["spec"]["size"].as_i64(),
            object["metadata"]["generation"].as_i64()
        ),
        (Some(4), Some(2))
    );

    // One object has a finalizer: the definition waits for it.
    let mut held = toy("held", 1);
    held["metadata"]["finalizers"] = json!(["example.org/x"]);
    create(&api, &TOYS, held);
    api.delete(
        &DEFINITIONS,
        "",
        "toys.example.org",
        &DeleteOptions::default(),
    )
    .unwrap();
    assert_eq!(api.get(&TOYS, "default", "a").unwrap_err().code, 404);
    let waiting = api.get(&DEFINITIONS, "", "toys.example.org").unwrap();
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        api.create(&TOYS, "default", toy("late", 1), &by("t"))
            .unwrap_err()
            .code,
        405
    );
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch(
        &TOYS,
        "default",
        "held",
        Subresource::None,
        release,
        &by("t"),
    )
    .unwrap();
    assert_eq!(
        api.get(&DEFINITIONS, "", "toys.example.org")
            .unwrap_err()
            .code,
        404
    );
    assert_eq!(
        api.list(&TOYS, None, &ListOptions::default())
            .unwrap_err()
            .code,
        404
    );
}

#[test]
fn definitions_with_taken_names_are_not_served() {
    let api = Api::in_memory();
    api.create(&DEFINITIONS, "", toys(), &by("t")).unwrap();
    let mut other = toys();
    other["metadata"]["name"] = "games.example.org".into();
    other["spec"]["names"]["plural"] = "games".into();
    let stored = api.create(&DEFINITIONS, "", other, &by("t")).unwrap();
    let accepted = &stored["status"]["conditions"][0];
    assert_eq!(
        (accepted["status"].as_str(), accepted["reason"].as_str()),
        (Some("False"), Some("KindConflict"))
    );
    assert!(
        api.list(
            &Gvr::new("example.org", "v1", "games"),
            None,
            &ListOptions::default()
        )
        .is_err()
    );
}

#[test]
fn definitions_are_served_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    {
        let api = Api::open(Some(&path)).unwrap();
        api.create(&DEFINITIONS, "", toys(), &by("t")).unwrap();
        create(&api, &TOYS, toy("a", 1));
    }
    let api = Api::open(Some(&path)).unwrap();
    assert_eq!(api.get(&TOYS, "default", "a").unwrap()["spec"]["size"], 1);
    assert_eq!(
        api.list(&NAMESPACES, None, &ListOptions::default())
            .unwrap()
            .items
            .len(),
        4
    );
}
