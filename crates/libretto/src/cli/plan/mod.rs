//! `libretto plan` and `libretto package plan`: what a first pass now would do, without doing it.

pub(super) mod compare;

use std::{collections::BTreeMap, path::PathBuf};

use anstyle::{AnsiColor, Style};
use clap::Args;
use libretto_actions::{belongs, kube::object_ref};
use libretto_api::{
    intent::{Effect, Intent},
    object::field_manager,
    secret::{Piece, SecretHandle, pieces},
};
use libretto_engine::{Plan, RowState};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::compare::Secrets;
use crate::cli::{
    CliError,
    connect::{Cluster, ClusterArgs, NamespaceArgs},
    effects::{self, Does},
    helm::HelmArgs,
    installed,
    look::{self, Answer, Look},
    manifest, package,
    print::{Document, Form, Printer},
    spoken,
};

/// With --exit-code: there is something to do.
const CHANGES: u8 = 2;
/// With --exit-code: nothing is to do as far as can be told, and not all can.
const UNKNOWN: u8 = 3;
/// Namespace of objects in files that name none, as of a fresh kubeconfig.
pub(super) const NAMESPACE: &str = "default";

const EXAMPLES: &str = "\
Examples:
  libretto plan rediscluster/test                    # what an operator that starts now would do first
  libretto plan -f changed.yaml                      # as if the instance had the spec of the file
  libretto plan -f changed.yaml --exit-code > /dev/null  # 2: there is something to do

It only reads: what the API server knows, what the operator wrote down, and each probe asked once by a
port-forward. Secrets are named, never shown. What an operator remembers in its memory only (calls it has
made, since when a row is there) is taken to be unknown, as after its restart.";

const FILES_EXAMPLES: &str = "\
Examples:
  libretto package plan ./my-operator -f instance.yaml
  libretto package plan redis -f instance.yaml -f secrets.yaml -o json

Of the files one is the instance; the others are what else there is in its namespace. No probe has been
answered, so rules that stand on probes wait.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    /// The instance of a package; not needed when a file names it
    #[arg(value_name = "KIND/NAME", required_unless_present = "file")]
    pub instance: Option<String>,

    /// File with the instance as it shall be; `-` is standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Package the instance is of: a bundled name or a folder; repeatable (default: those installed in the cluster, and all bundled ones)
    #[arg(long = "package", value_name = "NAME|DIR")]
    pub packages: Vec<String>,

    #[command(flatten)]
    pub form: FormArgs,
    #[command(flatten)]
    pub helm: HelmArgs,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = FILES_EXAMPLES)]
pub struct FilesArgs {
    /// Folder with a package.yaml, or the name of a bundled package
    #[arg(default_value = ".")]
    pub package: String,

    /// File or folder with the instance, and with what else there is; repeatable, `-` is standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub form: FormArgs,
    #[command(flatten)]
    pub helm: HelmArgs,
}

/// How it is told.
#[derive(Debug, Args)]
pub struct FormArgs {
    /// Another form than text
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,

    /// Exit with 2 when there is something to do, with 0 when there is nothing, with 3 when a probe that cannot be asked from here decides
    #[arg(long)]
    pub exit_code: bool,
}

pub(crate) async fn plan(args: PlanArgs, out: &mut Printer) -> Result<(), CliError> {
    let file = match &args.file {
        Some(file) => Some(one_object(
            manifest::read(std::slice::from_ref(file))?,
            args.instance.as_deref(),
        )?),
        None => None,
    };
    let (kind, name) = match (&args.instance, &file) {
        (Some(word), _) => {
            let (kind, name) = look::kind_and_name(word)?;
            (kind.to_owned(), name.to_owned())
        }
        (None, Some(object)) => (
            object["kind"].as_str().unwrap_or_default().to_owned(),
            object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        ),
        (None, None) => return Err(CliError::usage("name an instance, or a file with one")),
    };
    let mut namespace = args.namespace.namespace.clone();
    if namespace.is_none() {
        namespace = file
            .as_ref()
            .and_then(|object| object["metadata"]["namespace"].as_str())
            .map(str::to_owned);
    }
    let mut cluster = Cluster::connect(&args.cluster, namespace.as_deref()).await?;
    cluster.kube = cluster.kube.only_reading();
    let package = look::package_of(&kind, &installed::load(&args.packages, &cluster).await?)?;
    let live = look::fetch(&cluster, &package, &name).await?;
    let object = match (&file, &live) {
        (Some(file), live) => look::admitted(&package, live.as_ref(), file, &cluster.namespace)?,
        (None, Some(live)) => live.clone(),
        (None, None) => {
            let kind = &package.gvk().kind;
            return Err(CliError::failed(format!(
                "{kind} {}/{name} does not exist",
                cluster.namespace
            ))
            .hint("-f FILE plans for one that is not there yet; -n names another namespace"));
        }
    };
    let helm = args.helm.program(None);
    let mut look = Look::at_cluster(&cluster, package, live.as_ref(), object, &helm).await?;
    if !look.unserved.is_empty() {
        return Err(CliError::failed(format!(
            "nothing is decided while the cluster serves no {}",
            look.unserved[0]
        )));
    }
    let plan = look.plan()?;
    // Objects that are not the instance's are not among those that were listed.
    for intent in &plan.intents {
        if let Some(target) = effects::target(&intent.effect)
            && !look.live.contains_key(&target)
            && let Ok(Some(found)) = cluster.kube.get(&target).await
        {
            look.live.insert(target, found);
        }
    }
    let mut secrets = secrets(&look, live.as_ref());
    for name in named_secrets(&plan) {
        let secret = libretto_api::object::ObjectRef {
            gvk: libretto_api::object::Gvk::new("", "v1", "Secret"),
            namespace: look.instance.namespace.clone(),
            name,
        };
        // Who may not read it has nothing of it to hide.
        if let Ok(Some(secret)) = cluster.kube.get(&secret).await {
            secrets.of_object(&secret);
        }
    }
    tell(&look, &plan, &secrets, &args.form, out)
}

/// On files alone.
pub(crate) fn of_files(args: &FilesArgs, out: &mut Printer) -> Result<(), CliError> {
    let package = package::compile(&args.package)?;
    let (instances, others): (Vec<Value>, Vec<Value>) = manifest::read(&args.files)?
        .into_iter()
        .partition(|object| {
            object_ref(object).is_ok_and(|name| {
                name.gvk.kind == package.gvk().kind && name.gvk.group == package.gvk().group
            })
        });
    let [instance] = instances.as_slice() else {
        return Err(CliError::failed(format!(
            "the files hold {} objects of Kind {}, one is needed: the instance",
            instances.len(),
            package.gvk().kind
        )));
    };
    let object = look::admitted(&package, None, instance, NAMESPACE)?;
    let helm = args
        .helm
        .helm
        .clone()
        .unwrap_or_else(|| PathBuf::from("helm"));
    let look = Look::at_files(package, object, &others, &helm)?;
    let plan = look.plan()?;
    let secrets = secrets(&look, Some(&look.object));
    tell(&look, &plan, &secrets, &args.form, out)
}

fn one_object(mut objects: Vec<Value>, asked: Option<&str>) -> Result<Value, CliError> {
    if let Some((_, name)) = asked.and_then(|word| word.split_once('/')) {
        objects.retain(|object| object["metadata"]["name"] == name);
    }
    match objects.len() {
        1 => Ok(objects.remove(0)),
        0 => Err(CliError::failed(format!(
            "the file has no object called {}",
            asked.unwrap_or_default()
        ))),
        several => Err(CliError::failed(format!(
            "the file has {several} objects: say which by KIND/NAME"
        ))),
    }
}

/// Values that are known here and must not be shown: of Secrets that were read, and of the instance's own secret fields.
pub(super) fn secrets(look: &Look, live: Option<&Value>) -> Secrets {
    let mut secrets = Secrets::default();
    for object in look.live.values() {
        secrets.of_object(object);
    }
    for field in look.package.fields().iter().filter(|field| field.sensitive) {
        for object in [Some(&look.object), live].into_iter().flatten() {
            if let Some(value) = field.path.find(object).and_then(Value::as_str) {
                secrets.add(value);
            }
        }
    }
    secrets
}

/// Names of Secrets that the plan's effects speak of.
fn named_secrets(plan: &Plan) -> Vec<String> {
    let mut names = Vec::new();
    for intent in &plan.intents {
        let effect = serde_json::to_value(&intent.effect).expect("effects are plain data");
        let mut values = vec![&effect];
        while let Some(value) = values.pop() {
            match value {
                Value::String(text) => {
                    for piece in pieces(text) {
                        if let Piece::Handle(SecretHandle::Key { name, .. }) = piece
                            && !names.contains(&name)
                        {
                            names.push(name);
                        }
                    }
                }
                Value::Array(items) => values.extend(items),
                Value::Object(map) => values.extend(map.values()),
                _ => {}
            }
        }
    }
    names
}

/// One effect of the plan.
#[derive(Debug, Serialize)]
struct Step {
    does: Does,
    what: String,
    rule: String,
    row: String,
    /// What a call says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    said: Vec<String>,
    /// What changes, as a unified diff.
    #[serde(skip_serializing_if = "String::is_empty")]
    diff: String,
}

/// A rule that does not do all it will.
#[derive(Debug, PartialEq, Serialize)]
struct Waiting {
    rule: String,
    rows: usize,
    why: String,
}

fn tell(
    look: &Look,
    plan: &Plan,
    secrets: &Secrets,
    form: &FormArgs,
    out: &mut Printer,
) -> Result<(), CliError> {
    let mut steps = Vec::with_capacity(plan.intents.len());
    for intent in &plan.intents {
        steps.push(step(look, intent, secrets)?);
    }
    let waiting = waiting(plan);
    match form.output {
        Some(form) => {
            let document = secrets.scrubbed_value(&document(look, &steps, &waiting));
            out.document(&document, Document::from(form))?;
        }
        None => out.text(&secrets.scrubbed(&text(look, &steps, &waiting)))?,
    }
    if form.exit_code && !steps.is_empty() {
        out.flush()?;
        return Err(CliError::Exit(CHANGES));
    }
    if form.exit_code && not_asked(look) > 0 {
        out.flush()?;
        return Err(CliError::Exit(UNKNOWN));
    }
    Ok(())
}

/// Probes without an answer, because they cannot be asked from here.
fn not_asked(look: &Look) -> usize {
    let unknown = |answer: &Answer| matches!(answer, Answer::NotFromHere(_));
    look.asked
        .iter()
        .filter(|asked| unknown(&asked.answer))
        .count()
}

fn step(look: &Look, intent: &Intent, secrets: &Secrets) -> Result<Step, CliError> {
    let live = effects::target(&intent.effect).and_then(|target| look.live.get(&target));
    let (mut does, mut what) = effects::headline(intent, live.is_some());
    let manager = field_manager(&look.instance.package);
    let diff = match (&intent.effect, does) {
        (_, Does::Finalizer) => String::new(),
        (_, Does::Release) => match live {
            Some(live) => compare::released(live, &manager, secrets)?,
            None => String::new(),
        },
        (Effect::Apply { adopt, .. }, _)
            if live.is_some_and(|live| !adopt && !belongs(live, &look.instance)) =>
        {
            does = Does::Refuse;
            what.push_str(" is there and not the instance's; `adopt: true` would take it over");
            String::new()
        }
        (Effect::Apply { object, .. } | Effect::Patch { object, .. }, _) => {
            compare::object(live, object, &manager, secrets)?
        }
        (Effect::Status { status }, _) => {
            let before = look.object.get("status");
            compare::status(before, status, secrets)?
        }
        _ => String::new(),
    };
    Ok(Step {
        does,
        what,
        rule: intent.rule.clone(),
        row: intent.key.clone(),
        said: effects::said(&intent.effect),
        diff,
    })
}

fn waiting(plan: &Plan) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for rule in &plan.rules {
        if let Some(failure) = &rule.failure {
            waiting.push(Waiting {
                rule: rule.rule.clone(),
                rows: 0,
                why: spoken::text(failure),
            });
        }
        let mut notes: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &rule.rows {
            let held = matches!(row.state, RowState::Waiting | RowState::Failing)
                || row.state == RowState::Leaving && !row.note.is_empty();
            if held {
                *notes.entry(&row.note).or_default() += 1;
            }
        }
        waiting.extend(notes.into_iter().map(|(note, rows)| Waiting {
            rule: rule.rule.clone(),
            rows,
            why: spoken::text(note),
        }));
    }
    waiting
}

fn text(look: &Look, steps: &[Step], waiting: &[Waiting]) -> String {
    let mut text = String::new();
    for step in steps {
        text.push_str(&of_step(step));
    }
    if !waiting.is_empty() {
        text.push_str("Not yet:\n");
        for Waiting { rule, rows, why } in waiting {
            let rows = match rows {
                0 => String::new(),
                1 => "1 row, ".to_owned(),
                rows => format!("{rows} rows, "),
            };
            text.push_str(&format!("  {rule}: {rows}{why}\n"));
        }
    }
    for asked in &look.asked {
        if let Answer::NotFromHere(why) = &asked.answer {
            text.push_str(&format!(
                "Probe {} of {} cannot be asked from here: {why}\n",
                asked.table, asked.key
            ));
        }
    }
    let summary = summary(steps, not_asked(look));
    text.push_str(&format!("{}: {summary}\n", look.instance));
    text
}

fn summary(steps: &[Step], not_asked: usize) -> String {
    let mut counts: BTreeMap<Does, usize> = BTreeMap::new();
    for step in steps {
        *counts.entry(step.does).or_default() += 1;
    }
    if counts.is_empty() {
        return match not_asked {
            0 => "nothing to do".to_owned(),
            1 => "nothing to do as far as can be told: a probe was not asked".to_owned(),
            several => {
                format!("nothing to do as far as can be told: {several} probes were not asked")
            }
        };
    }
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(does, count)| match (does, count) {
            (Does::Create | Does::Change | Does::Delete | Does::Release, _) => {
                format!("{count} to {}", does.word())
            }
            (Does::Refuse, _) => format!("{count} that would be refused"),
            (Does::Call, 1) => "1 call".to_owned(),
            (Does::Call, _) => format!("{count} calls"),
            (Does::Event, 1) => "1 event".to_owned(),
            (Does::Event, _) => format!("{count} events"),
            (Does::Status, _) => "the status".to_owned(),
            (Does::Finalizer, _) => "the finalizer".to_owned(),
            (Does::Inventory, _) => "the inventory".to_owned(),
        })
        .collect();
    parts.join(", ")
}

fn of_step(step: &Step) -> String {
    let style = match step.does {
        Does::Create => AnsiColor::Green.on_default().bold(),
        Does::Delete | Does::Refuse => AnsiColor::Red.on_default().bold(),
        Does::Change | Does::Release => AnsiColor::Yellow.on_default().bold(),
        _ => Style::new().bold(),
    };
    let rule = if step.rule.starts_with('@') {
        String::new()
    } else if matches!(step.does, Does::Call | Does::Event) {
        format!("   (rule {}, row {})", step.rule, step.row)
    } else {
        format!("   (rule {})", step.rule)
    };
    let mut text = format!("{style}{} {}{style:#}{rule}\n", step.does.word(), step.what);
    for line in &step.said {
        text.push_str(&format!("  {line}\n"));
    }
    for line in step.diff.lines() {
        let style = match line.chars().next() {
            Some('+') => AnsiColor::Green.on_default(),
            Some('-') => AnsiColor::Red.on_default(),
            Some('@') => AnsiColor::Cyan.on_default(),
            _ => Style::new(),
        };
        text.push_str(&format!("  {style}{line}{style:#}\n"));
    }
    text
}

fn document(look: &Look, steps: &[Step], waiting: &[Waiting]) -> Value {
    let unknown: Map<String, Value> = look
        .asked
        .iter()
        .filter_map(|asked| match &asked.answer {
            Answer::NotFromHere(why) => Some((
                format!("{}/{}", asked.table, asked.key),
                why.as_str().into(),
            )),
            _ => None,
        })
        .collect();
    json!({
        "instance": {
            "kind": look.instance.gvk, "namespace": look.instance.namespace, "name": look.instance.name,
        },
        "package": {"name": look.package.name(), "version": look.package.version()},
        "steps": steps,
        "notYet": waiting,
        "notAsked": unknown,
        "summary": summary(steps, not_asked(look)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packages;

    fn redis(spec: &Value) -> (Look, Plan) {
        let package = packages::load(&["redis".to_owned()]).unwrap().remove(0);
        let file = json!({"apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster",
            "metadata": {"name": "test"}, "spec": spec});
        let object = look::admitted(&package, None, &file, NAMESPACE).unwrap();
        let look = Look::at_files(package, object, &[], &PathBuf::from("helm")).unwrap();
        let plan = look.plan().unwrap();
        (look, plan)
    }

    #[test]
    fn a_package_is_planned_on_an_empty_cluster() {
        let (look, plan) = redis(&json!({"size": 3, "password": "hunter2hunter2"}));
        let secrets = secrets(&look, Some(&look.object));
        let steps: Vec<Step> = plan
            .intents
            .iter()
            .map(|intent| step(&look, intent, &secrets).unwrap())
            .collect();
        let made = |kind: &str| {
            steps
                .iter()
                .filter(|step| step.does == Does::Create && step.what.starts_with(kind))
                .count()
        };
        assert!(
            made("Secret default/redis-auth-test") == 1,
            "{:?}",
            steps.iter().map(|s| &s.what).collect::<Vec<_>>()
        );
        assert!(made("Service ") > 0);
        let told = anstream::adapter::strip_str(&text(&look, &steps, &waiting(&plan))).to_string();
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("<field password>"), "{told}");
        assert!(told.contains("RedisCluster default/test: "), "{told}");
    }

    #[test]
    fn a_summary_counts() {
        let step = |does| Step {
            does,
            what: String::new(),
            rule: String::new(),
            row: String::new(),
            said: Vec::new(),
            diff: String::new(),
        };
        assert_eq!(summary(&[], 0), "nothing to do");
        assert_eq!(
            summary(&[], 2),
            "nothing to do as far as can be told: 2 probes were not asked"
        );
        assert_eq!(
            summary(
                &[
                    step(Does::Status),
                    step(Does::Create),
                    step(Does::Call),
                    step(Does::Create)
                ],
                0
            ),
            "2 to create, 1 call, the status"
        );
    }

    #[test]
    fn one_object_of_a_file_is_meant() {
        let named = |name: &str| json!({"metadata": {"name": name}});
        assert_eq!(one_object(vec![named("a")], None).unwrap(), named("a"));
        assert_eq!(
            one_object(vec![named("a"), named("b")], Some("k/b")).unwrap(),
            named("b")
        );
        assert!(one_object(vec![named("a"), named("b")], None).is_err());
        assert!(one_object(vec![named("a")], Some("k/b")).is_err());
    }
}
