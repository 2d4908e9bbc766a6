//! Charts: what they may hold, when they are applied, and what waits for them. Helm itself is not run here.

use std::sync::Mutex;

use libretto_api::chart::{Rendered, Rendering};
use libretto_api::object::InstanceRef;

use super::*;

const RULES: &str = r#"
sense:
  services: {watch: v1/Service, cols: {port: {path: "spec.ports[0].port", type: int}}}
execute:
  - name: chart
    drift: keep
    helm: {chart: web, values: [values.yaml, {size: "{{ cr.size }}", password: "{{ secret('db', 'password') }}"}]}
  - name: follow
    for: SELECT name, port FROM services WHERE NOT deleting
    force: true
    patch: {apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: front}, spec: {rules: [{host: x, port: "{{ port }}"}]}}
"#;

/// The chart alone.
fn chart_only() -> &'static str {
    RULES.split("  - name: follow").next().unwrap()
}

fn files(rest: &str) -> Files {
    let mut files = package(rest);
    for (name, text) in [
        ("values.yaml", "host: \"{{ cr.name }}.example\"\nsize: 1\n"),
        (
            "web/Chart.yaml",
            "apiVersion: v2\nname: web\nversion: 1.0.0\n",
        ),
        (
            "web/templates/all.yaml",
            "apiVersion: v1\nkind: Service\n---\napiVersion: {{ .x }}\nkind: Ingress\n---\nkind: Job\n---\nkind: PersistentVolumeClaim\n",
        ),
    ] {
        files.insert(name.to_owned(), text.to_owned());
    }
    files
}

/// Says what it was told to say, and keeps what it was asked.
#[derive(Default)]
struct Said {
    answer: Mutex<Option<Result<Vec<Value>, String>>>,
    asked: Mutex<Vec<Rendering>>,
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Said")
    }
}

impl Said {
    fn say(&self, answer: Result<Vec<Value>, String>) {
        *self.answer.lock().unwrap() = Some(answer);
    }
}

impl Charts for Said {
    fn rendered(&self, _instance: &InstanceRef, rendering: &Rendering) -> Option<Rendered> {
        self.asked.lock().unwrap().push(rendering.clone());
        self.answer.lock().unwrap().clone().map(Arc::new)
    }
}

fn manifest(kind: &str, name: &str, more: &Value) -> Value {
    let version = match kind {
        "Job" => "batch/v1",
        "Ingress" => "networking.k8s.io/v1",
        _ => "v1",
    };
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "creationTimestamp": null}, "status": {}});
    for (key, value) in more.as_object().into_iter().flatten() {
        if key == "annotations" {
            object["metadata"]["annotations"] = value.clone();
        } else {
            object[key] = value.clone();
        }
    }
    object
}

fn service(port: i64) -> Value {
    manifest(
        "Service",
        "web",
        &json!({"spec": {"ports": [{"port": port, "name": null}], "note": "libretto-secret-0-handle"}}),
    )
}

fn fixture(rest: &str) -> (Fixture, Arc<Said>) {
    let said = Arc::new(Said::default());
    (
        Fixture::with(&files(rest), Arc::clone(&said) as Arc<dyn Charts>),
        said,
    )
}

#[test]
fn nothing_happens_until_the_chart_is_rendered() {
    let (mut f, said) = fixture(RULES);
    assert_eq!(f.go(0), [""; 0]);
    let view = &f.plan.as_ref().unwrap().rules[0];
    assert_eq!(
        view.failure.as_deref(),
        Some("waits for chart web to be rendered")
    );
    assert!(!f.plan.as_ref().unwrap().settled);
    let asked = said.asked.lock().unwrap()[0].clone();
    assert_eq!(
        (asked.release.as_str(), asked.namespace.as_str()),
        ("demo", "ns")
    );
    assert_eq!(
        asked.values,
        json!({"host": "demo.example", "size": 3, "password": "libretto-secret-0-handle"})
    );
    said.say(Ok(vec![service(80)]));
    assert_eq!(f.go(0), ["apply Service/web"]);
    let applied = &f.world.objects[&f.world.find("Service/web").unwrap()];
    assert_eq!(
        applied["spec"],
        json!({"ports": [{"port": 80}], "note": "\u{1}secret:key:db:password\u{1}"})
    );
    assert_eq!(applied["metadata"]["ownerReferences"][0]["uid"], "cr-uid");
    assert_eq!(applied["metadata"]["namespace"], "ns");
}

#[test]
fn a_chart_that_cannot_be_rendered_takes_nothing_away() {
    let (mut f, said) = fixture(RULES);
    said.say(Ok(vec![service(80)]));
    f.settle();
    said.say(Err("chart web: a host is needed".to_owned()));
    f.change("Thing/demo", |cr| cr["spec"]["size"] = json!(4));
    assert_eq!(
        f.go(0),
        ["event EffectFailed: rule chart: chart web: a host is needed"; 0]
    );
    let view = &f.plan.as_ref().unwrap().rules[0];
    assert_eq!(view.failure.as_deref(), Some("chart web: a host is needed"));
    assert!(f.world.find("Service/web").is_some());
}

#[test]
fn drift_is_kept_until_the_chart_changes() {
    let (mut f, said) = fixture(chart_only());
    said.say(Ok(vec![service(80)]));
    f.settle();
    f.change("Service/web", |service| {
        service["spec"]["ports"][0]["port"] = json!(81);
        service["metadata"]["managedFields"] = json!([]);
    });
    assert_eq!(f.go(0), [""; 0], "as it was left");
    said.say(Ok(vec![service(82)]));
    f.change("Thing/demo", |cr| cr["spec"]["size"] = json!(4));
    assert_eq!(f.go(0), ["apply Service/web"]);
    f.delete("Service/web");
    assert_eq!(f.go(0), ["apply Service/web"], "what is gone is no drift");
}

#[test]
fn a_patch_of_what_the_chart_gives_is_laid_over_it() {
    let (mut f, said) = fixture(RULES);
    let ingress = manifest(
        "Ingress",
        "front",
        &json!({"spec": {"class": "c", "rules": [{"host": "x", "port": 1}]}}),
    );
    said.say(Ok(vec![service(80), ingress]));
    assert_eq!(f.go(0), ["apply Service/web", "apply Ingress/front"]);
    assert_eq!(f.go(0), ["apply Ingress/front"], "the Service is there now");
    let spec =
        |f: &Fixture| f.world.objects[&f.world.find("Ingress/front").unwrap()]["spec"].clone();
    assert_eq!(
        spec(&f),
        json!({"class": "c", "rules": [{"host": "x", "port": 80}]})
    );
    f.change("Service/web", |service| {
        service["spec"]["ports"][0]["port"] = json!(81);
    });
    assert_eq!(f.go(0), ["apply Ingress/front"]);
    assert_eq!(spec(&f)["rules"][0]["port"], 81);
    assert_eq!(f.go(0), [""; 0]);
    // Not known what the chart gives: a patch alone would take away the rest.
    said.say(Err("chart web: broken".to_owned()));
    f.change("Thing/demo", |cr| cr["spec"]["size"] = json!(4));
    f.change("Service/web", |service| {
        service["spec"]["ports"][0]["port"] = json!(82);
    });
    assert_eq!(f.go(0), [""; 0]);
    assert_eq!(spec(&f)["class"], "c");
}

#[test]
fn a_patch_of_somebody_elses_object_is_forced_when_asked() {
    let (mut f, said) = fixture(RULES);
    said.say(Ok(vec![service(80)]));
    f.put(manifest("Ingress", "front", &json!({})));
    let home = f.world.find("Ingress/front");
    assert!(home.is_some());
    f.go(0);
    let plan = f.look(0);
    let forced = plan
        .intents
        .iter()
        .any(|intent| matches!(&intent.effect, Effect::Patch { force: true, .. }));
    assert!(forced, "{:?}", plan.intents);
}

#[test]
fn hooks_are_waves_and_tests_are_nobodys() {
    let (mut f, said) = fixture(chart_only());
    let hook = |name: &str, when: &str, weight: &str| {
        manifest(
            "Job",
            name,
            &json!({"annotations": {"helm.sh/hook": when, "helm.sh/hook-weight": weight}, "spec": {}}),
        )
    };
    said.say(Ok(vec![
        hook("check", "test", "0"),
        service(80),
        hook("after", "post-install,post-upgrade", "0"),
        hook("second", "pre-install", "5"),
        hook("first", "pre-install,pre-upgrade", "-5"),
    ]));
    let done = f.go(0);
    assert_eq!(done.len(), 1, "{done:?}");
    assert!(done[0].starts_with("apply Job/first-"), "{done:?}");
    let finish = |f: &mut Fixture, done: &str| {
        let name = done.trim_start_matches("apply ").to_owned();
        f.change(&name, |job| {
            job["status"] =
                json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]});
        });
    };
    assert_eq!(f.go(0), [""; 0], "the first has not ended");
    finish(&mut f, &done[0]);
    let done = f.go(0);
    assert!(
        done.len() == 1 && done[0].starts_with("apply Job/second-"),
        "{done:?}"
    );
    finish(&mut f, &done[0]);
    assert_eq!(f.go(0), ["apply Service/web"]);
    let done = f.settle();
    assert!(
        done.len() == 1 && done[0].starts_with("apply Job/after-"),
        "{done:?}"
    );
}

#[test]
fn what_helm_keeps_is_kept() {
    let (mut f, said) = fixture(chart_only());
    let claim = manifest(
        "PersistentVolumeClaim",
        "data",
        &json!({"annotations": {"helm.sh/resource-policy": "keep"}}),
    );
    said.say(Ok(vec![service(80), claim]));
    f.settle();
    let claim = f.world.objects[&f.world.find("PersistentVolumeClaim/data").unwrap()].clone();
    assert!(claim["metadata"]["ownerReferences"].is_null());
    said.say(Ok(vec![]));
    f.change("Thing/demo", |cr| cr["spec"]["size"] = json!(4));
    // The secret is not used any more either.
    let view = f.look(0).rules[0].failure.clone().unwrap();
    assert!(
        view.contains(
            "key password of Secret db, which is among the values, is encoded or left out"
        ),
        "{view}"
    );
    said.say(Ok(vec![service(80)]));
    f.settle();
    assert!(f.world.find("PersistentVolumeClaim/data").is_some());
}

#[test]
fn what_a_chart_must_not_give_is_refused_by_name() {
    for (object, expected) in [
        (
            manifest("Secret", "s", &json!({})),
            "chart web: Secret s is a v1/Secret, and the package only knows of",
        ),
        (
            manifest(
                "Job",
                "j",
                &json!({"annotations": {"helm.sh/hook": "pre-delete"}}),
            ),
            "chart web: j is a hook of pre-delete, which is not run here",
        ),
        (
            json!({"kind": "Service"}),
            "chart web: Service  has no apiVersion or kind",
        ),
        (
            manifest(
                "Service",
                "x",
                &json!({"metadata": {"name": "x", "namespace": "other"}}),
            ),
            "chart web: Service x is in another namespace than the instance (ns)",
        ),
    ] {
        let (mut f, said) = fixture(RULES);
        said.say(Ok(vec![service(80), object]));
        f.go(0);
        let failure = f.plan.as_ref().unwrap().rules[0]
            .failure
            .clone()
            .unwrap_or_default();
        assert!(failure.starts_with(expected), "{expected}\n{failure}");
        assert!(f.world.find("Service/web").is_none(), "all or nothing");
    }
}

#[test]
fn mistakes_are_found_at_load() {
    let mut broken = files(
        r"
execute:
  - name: a
    helm: {chart: webb, values: valeus.yaml, skip: [all], color: red}
  - name: b
    once: true
    drift: sometimes
    helm: {chart: web}
  - name: c
    call: event
    force: true
    with: {reason: R, message: m}
  - name: d
    helm: {chart: web, from: {repository: charts.example, name: web, version: 9.9.9, branch: x}}
",
    );
    for (name, text) in [
        ("web/crds/x.yaml", "kind: CustomResourceDefinition\n"),
        (
            "web/templates/lookup.yaml",
            "{{ lookup \"v1\" \"Secret\" \"\" \"\" }}\n",
        ),
        (
            "web/templates/odd.yaml",
            "apiVersion: {{ .v }}\nkind: Widget\n",
        ),
        (
            "web/templates/bye.yaml",
            "metadata:\n  annotations:\n    \"helm.sh/hook\": pre-delete\n",
        ),
    ] {
        broken.insert(name.to_owned(), text.to_owned());
    }
    let found = told(&broken);
    for expected in [
        "rule a: helm: there is no chart `webb`",
        "did you mean `web`?",
        "values: there is no file `valeus.yaml`",
        "skip: `all` is not known",
        "unknown keyword `color` in rule a: helm",
        "`once` has no meaning with `helm`",
        "rule b: drift: `sometimes` is not known",
        "rule b: helm: chart web: crds/x.yaml is a definition",
        "chart web: templates/lookup.yaml:1 calls `lookup`",
        "chart web: templates/odd.yaml:2: which Kind `Widget` is cannot be read off",
        "chart web: templates/bye.yaml is a hook that is run at pre-delete",
        "rule c: `force` has no meaning with `call`",
        "rule d: helm.from.repository is no repository of charts",
        "rule d: helm: chart `web` is of version",
        "and `from` says 9.9.9",
        "unknown keyword `branch` in rule d: helm.from",
    ] {
        assert!(found.contains(expected), "{expected}\n--\n{found}");
    }
    let mut knowing = broken;
    let text = knowing["package.yaml"].clone();
    let start = text.find("  execute:").unwrap();
    let rules = "  execute:\n    - name: b\n      helm: {chart: web, skip: [crds, lookup, hooks], kinds: [w/v1/Widget]}\n";
    knowing.insert(
        "package.yaml".to_owned(),
        format!("{}{rules}", &text[..start]),
    );
    assert_eq!(told(&knowing), "");
}

#[test]
fn kinds_that_were_only_read_off_a_chart_are_optional() {
    let mut files = files(RULES);
    files.insert(
        "web/templates/route.yaml".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n".to_owned(),
    );
    let optional = |files: &Files| -> Vec<String> {
        load_files(files)
            .unwrap()
            .watches()
            .iter()
            .filter(|watch| watch.optional)
            .map(|watch| watch.gvk.kind.clone())
            .collect()
    };
    // The Service is sensed and the Ingress patched by other rules.
    assert_eq!(
        optional(&files),
        ["PersistentVolumeClaim", "Job", "HTTPRoute"]
    );
    let named = files["package.yaml"].replace(
        "chart: web,",
        "chart: web, kinds: [gateway.networking.k8s.io/v1/HTTPRoute],",
    );
    files.insert("package.yaml".to_owned(), named);
    assert_eq!(optional(&files), ["PersistentVolumeClaim", "Job"]);
}
