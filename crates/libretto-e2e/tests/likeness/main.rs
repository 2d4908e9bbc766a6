//! The embedded cluster answers as Kubernetes does: every case of `tests/likeness` against what Kubernetes answered.
//!
//! - `LIBRETTO_LIKENESS_KUBECONFIG=FILE`: that cluster is asked as well, and must answer what is recorded.
//! - `LIBRETTO_LIKENESS_RECORD=1` in addition: what it answers is recorded.
//! - `LIBRETTO_LIKENESS_ONLY=WORDS`: only cases whose file and name contain the words.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use futures::StreamExt as _;
use libretto_e2e::{
    Failure, Step,
    cluster::Cluster,
    likeness::{
        case::{self, Case, CaseFile},
        compare,
        place::Place,
        recording::Recording,
        run::{self, Outcome},
    },
};

/// Cases at a time: enough that waiting for pods overlaps, few enough that two cores answer probes in time.
const AT_ONCE: usize = 10;
/// How often Kubernetes is asked before an answer counts as another one: its controllers come by when they can, and what a request
/// between two of their visits answers depends on the moment.
const ASKED: usize = 3;

/// What is recorded of each subject, and the file that it is in.
type Recordings = BTreeMap<String, (Recording, PathBuf)>;

struct Subject {
    name: String,
    file: CaseFile,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/likeness")
}

fn subjects() -> Step<Vec<Subject>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Step<_>>()?;
    files.retain(|file| file.extension() == Some(OsStr::new("yaml")));
    files.sort();
    files
        .iter()
        .map(|file| {
            Ok(Subject {
                name: file
                    .file_stem()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                file: case::read(file)?,
            })
        })
        .collect()
}

/// Runs the chosen cases of all subjects and returns the outcome of each, by subject and name.
async fn outcomes(
    place: &Place,
    subjects: &[Subject],
    chosen: &(dyn Fn(&Subject, &Case) -> bool + Sync),
) -> Step<BTreeMap<(String, String), Outcome>> {
    let mut work = Vec::new();
    let mut prepared = Vec::new();
    for subject in subjects {
        let cases: Vec<_> = subject
            .file
            .cases
            .iter()
            .filter(|case| chosen(subject, case))
            .collect();
        if cases.is_empty() {
            continue;
        }
        let shared = run::identity();
        run::prepare(place, &subject.file.shared, &shared)
            .await
            .map_err(|failure| Failure::from(format!("{}: shared: {failure}", subject.name)))?;
        work.extend(
            cases
                .into_iter()
                .map(|case| (subject, case, shared.clone())),
        );
        prepared.push((subject, shared));
    }
    let outcomes = futures::stream::iter(work)
        .map(|(subject, case, shared)| async move {
            let outcome = run::run(place, case, &shared).await;
            ((subject.name.clone(), case.name.clone()), outcome)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for (subject, shared) in prepared {
        run::clean(place, &subject.file.cleanup, &shared).await?;
    }
    Ok(outcomes)
}

/// What is wrong with a case, if anything.
fn verdict(
    case: &Case,
    recorded: Option<&Vec<serde_json::Value>>,
    outcome: &Outcome,
    known: bool,
) -> Step<Option<String>> {
    let Some(recorded) = recorded else {
        return Ok(Some(
            "  Kubernetes' answers are not recorded; see \"Likeness\" in CONTRIBUTING.md\n"
                .to_owned(),
        ));
    };
    let titles: Vec<String> = case.steps.iter().map(case::CaseStep::title).collect();
    if !recorded
        .iter()
        .map(|answer| answer["step"].as_str().unwrap_or_default())
        .eq(titles.iter())
    {
        return Ok(Some(
            "  the steps have changed since they were recorded; see \"Likeness\" in CONTRIBUTING.md\n".to_owned(),
        ));
    }
    let mut report = compare::report(case, recorded, &outcome.answers, known)?;
    if let Some(failure) = &outcome.failure
        && report.is_some()
    {
        let _ = writeln!(report.get_or_insert_default(), "  it ended with: {failure}");
    }
    Ok(report)
}

/// Where Kubernetes answered otherwise than recorded, by subject and name; when recording, where it could not be asked.
fn differences(
    place: &Place,
    subjects: &[Subject],
    outcomes: &BTreeMap<(String, String), Outcome>,
    recordings: &mut Recordings,
    record: bool,
) -> Step<BTreeMap<(String, String), String>> {
    let mut differences = BTreeMap::new();
    for subject in subjects {
        let (recording, _) = recordings
            .get_mut(&subject.name)
            .ok_or("every subject has a recording")?;
        for case in &subject.file.cases {
            let key = (subject.name.clone(), case.name.clone());
            let Some(outcome) = outcomes.get(&key) else {
                continue;
            };
            if let Some(failure) = &outcome.failure {
                let text = format!("{}: {}: with Kubernetes\n  {failure}\n", key.0, key.1);
                differences.insert(key, text);
                if record {
                    recording.cases.remove(&case.name);
                }
            } else if record {
                recording.version.clone_from(&place.version);
                recording
                    .cases
                    .insert(case.name.clone(), outcome.answers.clone());
            } else if let Some(text) =
                verdict(case, recording.cases.get(&case.name), outcome, false)?
            {
                let text = format!(
                    "{}: {}: Kubernetes {} no longer answers what is recorded of {}\n{text}\n",
                    key.0, key.1, place.version, recording.version
                );
                differences.insert(key, text);
            }
        }
    }
    Ok(differences)
}

#[tokio::test]
async fn the_embedded_cluster_answers_as_kubernetes_does() -> Step {
    let subjects = subjects()?;
    let only = env::var("LIBRETTO_LIKENESS_ONLY").unwrap_or_default();
    let chosen = |subject: &Subject, case: &Case| {
        only.is_empty() || format!("{} {}", subject.name, case.name).contains(&only)
    };
    let kubeconfig = env::var_os("LIBRETTO_LIKENESS_KUBECONFIG");
    let record = kubeconfig.is_some() && env::var_os("LIBRETTO_LIKENESS_RECORD").is_some();
    let recorded = folder().join("recorded");
    let mut recordings = Recordings::new();
    for subject in &subjects {
        let file = recorded.join(format!("{}.json", subject.name));
        recordings.insert(subject.name.clone(), (Recording::read(&file)?, file));
    }

    let mut report = String::new();
    if let Some(kubeconfig) = kubeconfig {
        let place = Place::connect(kubeconfig.into()).await?;
        let mut left: Option<BTreeMap<(String, String), String>> = None;
        for _ in 0..if record { 1 } else { ASKED } {
            let again = |subject: &Subject, case: &Case| {
                chosen(subject, case)
                    && left.as_ref().is_none_or(|left| {
                        left.contains_key(&(subject.name.clone(), case.name.clone()))
                    })
            };
            let outcomes = outcomes(&place, &subjects, &again).await?;
            left = Some(differences(
                &place,
                &subjects,
                &outcomes,
                &mut recordings,
                record,
            )?);
            if left.as_ref().is_some_and(BTreeMap::is_empty) {
                break;
            }
        }
        for text in left.into_iter().flatten().map(|(_, text)| text) {
            report.push_str(&text);
        }
        if record {
            for subject in &subjects {
                let (recording, file) = recordings
                    .get_mut(&subject.name)
                    .ok_or("every subject has a recording")?;
                let names: BTreeSet<_> = subject.file.cases.iter().map(|case| &case.name).collect();
                recording.cases.retain(|name, _| names.contains(name));
                recording.write(file)?;
            }
        }
    }

    // Where controllers must not interfere nothing runs before its case; one cluster serves all.
    let cluster = Cluster::embedded().await?;
    let mut place = Place::connect(cluster.kubeconfig()).await?;
    place.passing = true;
    let outcomes = outcomes(&place, &subjects, &chosen).await?;
    let mut differing = 0;
    for subject in &subjects {
        let (recording, _) = recordings
            .get(&subject.name)
            .ok_or("every subject has a recording")?;
        for case in &subject.file.cases {
            let Some(outcome) = outcomes.get(&(subject.name.clone(), case.name.clone())) else {
                continue;
            };
            if let Some(text) = verdict(case, recording.cases.get(&case.name), outcome, true)? {
                differing += 1;
                let _ = writeln!(report, "{}: {}\n{text}", subject.name, case.name);
            }
        }
        if let Some(name) = recording
            .cases
            .keys()
            .find(|name| !subject.file.cases.iter().any(|case| &case.name == *name))
        {
            let _ = writeln!(report, "{}: recorded, but no case: {name}", subject.name);
        }
    }
    let requests: usize = subjects
        .iter()
        .flat_map(|subject| &subject.file.cases)
        .map(Case::requests)
        .sum();
    let cases: usize = subjects
        .iter()
        .map(|subject| subject.file.cases.len())
        .sum();
    assert!(
        report.is_empty(),
        "\n{report}\n{differing} cases differ; there are {cases} cases with {requests} requests"
    );
    Ok(())
}
