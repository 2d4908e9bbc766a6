//! Rollouts in the simulator: order, bounds, back and forth.

#![allow(clippy::unwrap_used)]
use super::super::replicaset::ReplicaSets;
use super::super::simulator::Simulator;
use super::*;
use rand::Rng;

fn deployment(replicas: i64, image: &str, extra: &Value) -> Value {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": "n", "name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    });
    for (member, value) in extra.as_object().unwrap() {
        deployment["spec"][member] = value.clone();
    }
    deployment
}

fn strategy(surge: i64, unavailable: i64) -> Value {
    json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}})
}

fn key() -> ObjectKey {
    ObjectKey::new(&DEPLOYMENTS, "n", "web")
}

fn cluster(seed: u64) -> Simulator {
    Simulator::new(
        seed,
        vec![
            Box::new(Deployments),
            Box::new(ReplicaSets),
            Box::new(super::super::garbage::GarbageCollector),
        ],
    )
}

fn converge(simulator: &mut Simulator) {
    for _ in 0..400 {
        assert!(simulator.settle(400), "controllers do not settle");
        simulator.kubelet(false);
        simulator.pass_time(1);
    }
    assert!(simulator.settle(400));
}

fn status(simulator: &Simulator) -> Value {
    simulator.cache.at(&key()).unwrap()["status"].clone()
}

fn reason(simulator: &Simulator, kind: &str) -> String {
    let deployment = simulator.cache.at(&key()).unwrap();
    condition(deployment, kind).map_or(String::new(), |one| text(one, "/reason").to_owned())
}

fn images(simulator: &Simulator) -> Vec<String> {
    simulator
        .pods("n")
        .iter()
        .filter(|pod| pods::active(pod))
        .map(|pod| text(pod, "/spec/containers/0/image").to_owned())
        .collect()
}

fn sets(simulator: &Simulator) -> Vec<(String, i64)> {
    let mut sets: Vec<_> = simulator
        .cache
        .list(&REPLICA_SETS, "n")
        .map(|set| {
            (
                annotation(set, REVISION).to_owned(),
                int(set, "/spec/replicas").unwrap(),
            )
        })
        .collect();
    sets.sort();
    sets
}

#[test]
fn a_first_rollout_and_its_status() {
    let mut simulator = cluster(1);
    simulator.apply(&DEPLOYMENTS, deployment(3, "a", &json!({})));
    assert!(simulator.settle(100));
    assert_eq!(simulator.pods("n").len(), 3);
    assert_eq!(
        reason(&simulator, "Available"),
        "MinimumReplicasUnavailable"
    );
    converge(&mut simulator);
    assert_eq!(sets(&simulator), [("1".to_owned(), 3)]);
    let status = status(&simulator);
    for member in [
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
    ] {
        assert_eq!(status[member], 3, "{member}");
    }
    assert!(status.get("unavailableReplicas").is_none());
    assert_eq!(reason(&simulator, "Available"), "MinimumReplicasAvailable");
    assert_eq!(reason(&simulator, "Progressing"), "NewReplicaSetAvailable");
    let deployment = simulator.cache.at(&key()).unwrap();
    assert_eq!(annotation(deployment, REVISION), "1");
    let pod = &simulator.pods("n")[0];
    let hash = object::label(pod, HASH_LABEL);
    assert!(object::name(pod).starts_with(&format!("web-{hash}-")));
    assert_eq!(
        simulator.events[0],
        format!("ScalingReplicaSet Scaled up replica set web-{hash} from 0 to 3")
    );
}

#[test]
fn a_converged_deployment_is_silent() {
    let mut simulator = cluster(2);
    simulator.apply(&DEPLOYMENTS, deployment(2, "a", &json!({})));
    converge(&mut simulator);
    let writes = simulator.writes;
    for set in simulator.cache.keys(&REPLICA_SETS) {
        simulator.change(&set, |set| set["metadata"]["labels"]["noise"] = "1".into());
    }
    simulator.pass_time(10_000);
    assert!(simulator.settle(100));
    assert_eq!(simulator.writes, writes);
}

#[test]
fn undoing_reuses_the_old_set() {
    let mut simulator = cluster(3);
    let extra = json!({"revisionHistoryLimit": 2});
    for image in ["a", "b", "a"] {
        simulator.apply(&DEPLOYMENTS, deployment(2, image, &extra));
        converge(&mut simulator);
    }
    assert_eq!(sets(&simulator), [("2".to_owned(), 0), ("3".to_owned(), 2)]);
    let newest = simulator
        .cache
        .list(&REPLICA_SETS, "n")
        .find(|set| annotation(set, REVISION) == "3")
        .unwrap();
    assert_eq!(annotation(newest, REVISION_HISTORY), "1");
    for image in ["c", "d", "e"] {
        simulator.apply(&DEPLOYMENTS, deployment(2, image, &extra));
        converge(&mut simulator);
    }
    let revisions: Vec<_> = sets(&simulator)
        .into_iter()
        .map(|(revision, _)| revision)
        .collect();
    assert_eq!(revisions, ["4", "5", "6"]);
}

#[test]
fn recreate_never_mixes_templates() {
    let mut simulator = cluster(4);
    let extra = json!({"strategy": {"type": "Recreate"}});
    simulator.apply(&DEPLOYMENTS, deployment(3, "a", &extra));
    converge(&mut simulator);
    simulator.apply(&DEPLOYMENTS, deployment(3, "b", &extra));
    for _ in 0..600 {
        if simulator.random.random_bool(0.5) {
            simulator.kubelet(false);
        } else {
            simulator.step();
        }
        let mut images: Vec<_> = simulator
            .pods("n")
            .iter()
            .map(|pod| text(pod, "/spec/containers/0/image").to_owned())
            .collect();
        images.dedup();
        assert!(images.len() <= 1, "{images:?}");
    }
    converge(&mut simulator);
    assert_eq!(images(&simulator), ["b"; 3]);
}

#[test]
fn pausing_holds_the_template_but_not_the_size() {
    let mut simulator = cluster(5);
    simulator.apply(&DEPLOYMENTS, deployment(2, "a", &json!({})));
    converge(&mut simulator);
    simulator.apply(&DEPLOYMENTS, deployment(4, "b", &json!({"paused": true})));
    converge(&mut simulator);
    assert_eq!(images(&simulator), ["a"; 4]);
    assert_eq!(reason(&simulator, "Progressing"), "DeploymentPaused");
    simulator.apply(&DEPLOYMENTS, deployment(4, "b", &json!({"paused": false})));
    converge(&mut simulator);
    assert_eq!(images(&simulator), ["b"; 4]);
    assert_eq!(reason(&simulator, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_that_hangs_is_reported() {
    let mut simulator = cluster(6);
    let extra = json!({"progressDeadlineSeconds": 60});
    simulator.apply(&DEPLOYMENTS, deployment(2, "a", &extra));
    converge(&mut simulator);
    simulator.apply(&DEPLOYMENTS, deployment(2, "broken", &extra));
    assert!(simulator.settle(200));
    for _ in 0..10 {
        simulator.pass_time(10);
        assert!(simulator.settle(200));
    }
    assert_eq!(
        reason(&simulator, "Progressing"),
        "ProgressDeadlineExceeded"
    );
    // The old pods keep serving.
    assert_eq!(reason(&simulator, "Available"), "MinimumReplicasAvailable");
    converge(&mut simulator);
    assert_eq!(reason(&simulator, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_stays_within_surge_and_availability() {
    for seed in 0..60 {
        let surge = i64::try_from(seed % 3).unwrap();
        let unavailable = if surge == 0 {
            1
        } else {
            i64::try_from(seed % 2).unwrap()
        };
        let extra = strategy(surge, unavailable);
        let mut simulator = cluster(seed);
        simulator.apply(&DEPLOYMENTS, deployment(5, "a", &extra));
        converge(&mut simulator);
        simulator.apply(&DEPLOYMENTS, deployment(5, "b", &extra));
        let mut steps = 0;
        while images(&simulator) != ["b"; 5] || status(&simulator)["availableReplicas"] != 5 {
            if simulator.random.random_bool(0.5) {
                simulator.kubelet(false);
            } else {
                simulator.step();
            }
            let active = i64::try_from(images(&simulator).len()).unwrap();
            assert!(active <= 5 + surge, "seed {seed}: {active} pods");
            let serving = simulator
                .pods("n")
                .iter()
                .filter(|pod| pods::active(pod) && pods::ready(pod))
                .count();
            assert!(
                i64::try_from(serving).unwrap() >= 5 - unavailable,
                "seed {seed}: {serving} serve"
            );
            steps += 1;
            assert!(steps < 5000, "seed {seed} does not converge");
        }
    }
}

#[test]
fn whatever_happens_it_converges() {
    for seed in 0..60 {
        let mut simulator = cluster(seed);
        let extra = if seed % 4 == 3 {
            json!({"strategy": {"type": "Recreate"}})
        } else {
            strategy(
                1 + i64::try_from(seed % 2).unwrap(),
                i64::try_from(seed % 3).unwrap(),
            )
        };
        let mut replicas = 4;
        let mut image = "a";
        simulator.apply(&DEPLOYMENTS, deployment(replicas, image, &extra));
        for _ in 0..300 {
            match simulator.random.random_range(0..20) {
                0 => {
                    replicas = simulator.random.random_range(0..7);
                    image = ["a", "b", "c"][simulator.random.random_range(0..3)];
                    simulator.apply(&DEPLOYMENTS, deployment(replicas, image, &extra));
                }
                1 => {
                    let pods = simulator.cache.keys(&PODS);
                    if !pods.is_empty() {
                        let pod = pods[simulator.random.random_range(0..pods.len())].clone();
                        simulator.delete(&pod);
                    }
                }
                2 => simulator.pass_time(2),
                3..10 => simulator.kubelet(true),
                _ => {
                    simulator.step();
                }
            }
        }
        converge(&mut simulator);
        let expected = vec![image.to_owned(); usize::try_from(replicas).unwrap()];
        assert_eq!(images(&simulator), expected, "seed {seed}");
        let status = status(&simulator);
        assert_eq!(
            status["availableReplicas"].as_i64().unwrap_or(0),
            replicas,
            "seed {seed}"
        );
        assert_eq!(
            reason(&simulator, "Progressing"),
            "NewReplicaSetAvailable",
            "seed {seed}"
        );
    }
}
