//! `libretto package diff`: what a new version of a package means for those who use it: its definition, its rules, and the objects of an
//! instance. From files alone.

mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anstyle::{AnsiColor, Style};
use clap::Args;
use libretto_engine::{Compiled, Files};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::schema::Difference;
use crate::{
    cli::{
        CliError,
        helm::HelmArgs,
        look::{self, Look},
        manifest,
        plan::{NAMESPACE, compare},
        print::{Document, Form, Printer},
    },
    packages,
};

const EXAMPLES: &str = "\
Examples:
  libretto package diff redis ./redis                     # the bundled package against a changed one
  libretto package diff ./old ./new -f instance.yaml      # what changes for this instance
  libretto package diff ./old ./new -o json

Without -f the instances are one with the definition's defaults, when it allows it, and those of the
scenarios in tests.yaml. No probe has been answered: objects that follow from answers are not compared.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DiffArgs {
    /// Folder with a package.yaml, or the name of a bundled package: as it was
    pub old: String,

    /// Folder with a package.yaml, or the name of a bundled package: as it shall be
    pub new: String,

    /// File or folder with instances whose objects to compare; repeatable, `-` is standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Another form than text
    #[arg(short, long, value_enum)]
    pub output: Option<Form>,

    #[command(flatten)]
    pub helm: HelmArgs,
}

/// A package with its files.
struct Side {
    package: Arc<Compiled>,
    files: Files,
    /// `package.yaml` in today's form.
    text: Value,
}

/// Names of what is new, gone and other than it was.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Names {
    added: Vec<String>,
    removed: Vec<String>,
    /// With what of it changed.
    changed: BTreeMap<String, Vec<String>>,
}

impl Names {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// An object of an instance that is not as it was.
#[derive(Debug, Serialize)]
struct Changed {
    object: String,
    /// `added`, `removed` or `changed`.
    how: &'static str,
    /// Its pods would be made anew.
    restarts: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    diff: String,
}

/// What changes for one instance.
#[derive(Debug, Serialize)]
struct ForInstance {
    instance: String,
    objects: Vec<Changed>,
    /// Rules whose objects follow from what is not known here.
    unknown: Vec<String>,
}

pub(crate) fn diff(args: &DiffArgs, out: &mut Printer) -> Result<(), CliError> {
    let (old, new) = (side(&args.old)?, side(&args.new)?);
    let definition = schema::differences(old.package.crd(), new.package.crd());
    let parts = [
        ("rules", names(&rules(&old), &rules(&new))),
        (
            "views",
            names(
                &members(&old.text["spec"]["decide"]),
                &members(&new.text["spec"]["decide"]),
            ),
        ),
        (
            "tables",
            names(
                &members(&old.text["spec"]["sense"]),
                &members(&new.text["spec"]["sense"]),
            ),
        ),
        ("fields", names(&fields(&old), &fields(&new))),
    ];
    let helm = args
        .helm
        .helm
        .clone()
        .unwrap_or_else(|| PathBuf::from("helm"));
    let mut instances = Vec::new();
    for (name, instance) in instances_of(args, &old, &new)? {
        let found = for_instance(&name, &old, &new, &instance, &helm)?;
        instances.extend(found);
    }
    match args.output {
        Some(form) => {
            let parts: Map<String, Value> = parts
                .iter()
                .map(|(name, names)| ((*name).to_owned(), json!(names)))
                .collect();
            let document =
                json!({"definition": definition, "package": parts, "instances": instances});
            out.document(&document, Document::from(form))
        }
        None => out.text(&text(&definition, &parts, &instances)),
    }
}

fn side(place: &str) -> Result<Side, CliError> {
    let failed = |error: packages::PackageError| CliError::failed(error.to_string());
    let mistakes = |diagnostics| {
        failed(packages::PackageError::Mistakes {
            path: place.to_owned(),
            diagnostics,
        })
    };
    let mut files = packages::files(place).map_err(failed)?;
    if libretto_engine::classic_file(&files).is_some() {
        files = libretto_engine::convert(&files).map_err(mistakes)?;
    }
    let package = libretto_engine::load_files(&files).map_err(mistakes)?;
    let text = serde_saphyr::from_str(&files["package.yaml"])
        .map_err(|error| CliError::failed(format!("{place}: {error}")))?;
    Ok(Side {
        package: Arc::new(package),
        files,
        text,
    })
}

/// Rules by name, each with the texts of the files that it names.
fn rules(side: &Side) -> BTreeMap<String, Value> {
    let mut rules = BTreeMap::new();
    for rule in side.text["spec"]["execute"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let mut rule = rule.clone();
        let name = rule["name"]
            .as_str()
            .or_else(|| rule["metric"]["name"].as_str())
            .unwrap_or("status")
            .to_owned();
        for verb in ["apply", "patch"] {
            if let Some(named) = texts(&rule[verb]) {
                // The texts stand for the names: a renamed file changes nothing.
                let files = side
                    .files
                    .iter()
                    .filter(|(file, _)| named.iter().any(|pattern| matches(pattern, file)));
                rule[verb] = files.map(|(_, text)| Value::from(text.as_str())).collect();
            }
        }
        if let Some(chart) = rule["helm"]["chart"].as_str().map(str::to_owned) {
            let files: Map<String, Value> = side
                .files
                .iter()
                .filter(|(file, _)| file.starts_with(&chart))
                .map(|(file, text)| (file.clone(), text.as_str().into()))
                .collect();
            rule["helm"]["chart"] = Value::Object(files);
        }
        rules.insert(name, rule);
    }
    rules
}

/// One text or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

/// `*` stands for anything within a folder.
fn matches(pattern: &str, file: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == file;
    };
    let Some(rest) = file.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len()).any(|place| {
        rest.is_char_boundary(place)
            && !rest[..place].contains('/')
            && matches(tail, &rest[place..])
    })
}

fn members(value: &Value) -> BTreeMap<String, Value> {
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn fields(side: &Side) -> BTreeMap<String, Value> {
    let crd = &side.text["spec"]["crd"];
    let mut fields = members(&crd["fields"]);
    fields.extend(members(&crd["schema"]));
    fields
}

fn names(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Names {
    let mut names = Names::default();
    for (name, before) in old {
        match new.get(name) {
            None => names.removed.push(name.clone()),
            Some(after) if after != before => {
                names.changed.insert(name.clone(), keywords(before, after));
            }
            Some(_) => {}
        }
    }
    let added = new.keys().filter(|name| !old.contains_key(*name));
    names.added.extend(added.cloned());
    names
}

/// Keywords at which two maps differ; none for what is no map.
fn keywords(old: &Value, new: &Value) -> Vec<String> {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Vec::new();
    };
    let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    all.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .cloned()
        .collect()
}

/// Instances to compare with, each with what to call it.
fn instances_of(args: &DiffArgs, old: &Side, new: &Side) -> Result<Vec<(String, Value)>, CliError> {
    let gvk = new.package.gvk();
    if !args.files.is_empty() {
        return Ok(manifest::read(&args.files)?
            .into_iter()
            .map(|object| {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                (format!("{} {name}", gvk.kind), object)
            })
            .collect());
    }
    let empty = json!({
        "apiVersion": gvk.api_version(), "kind": gvk.kind, "metadata": {"name": "demo"}, "spec": {},
    });
    let mut instances = vec![("an instance with defaults".to_owned(), empty.clone())];
    let scenarios: Value = match new.files.get("tests.yaml") {
        Some(text) => serde_saphyr::from_str(text)
            .map_err(|error| CliError::failed(format!("tests.yaml: {error}")))?,
        None => Value::Null,
    };
    for scenario in scenarios.as_array().into_iter().flatten() {
        let mut instance = empty.clone();
        if let Some(spec) = scenario["given"].get("spec") {
            instance["spec"] = spec.clone();
        }
        for (name, value) in scenario["given"]["cr"].as_object().into_iter().flatten() {
            if let Some(field) = new
                .package
                .fields()
                .iter()
                .find(|field| field.name == *name)
            {
                field.path.set(&mut instance, value.clone());
            }
        }
        let name = scenario["name"].as_str().unwrap_or_default();
        if !instances.iter().any(|(_, known)| *known == instance) {
            instances.push((format!("the instance of scenario {name:?}"), instance));
        }
    }
    // What either version refuses has no objects in both.
    instances.retain(|(_, instance)| {
        [old, new]
            .iter()
            .all(|side| look::admitted(&side.package, None, instance, NAMESPACE).is_ok())
    });
    Ok(instances)
}

/// Objects that rules want, by name; and rules whose objects are not known.
type Wanted = (BTreeMap<String, Value>, Vec<String>);

fn wanted(side: &Side, instance: &Value, helm: &Path) -> Result<Wanted, CliError> {
    let object = look::admitted(&side.package, None, instance, NAMESPACE)?;
    let look = Look::at_files(Arc::clone(&side.package), object, &[], helm)?;
    let (objects, unknown) = look.engine.wanted(&look.snapshot()?, look.now);
    let objects = objects
        .into_iter()
        .filter_map(|object| {
            let name = libretto_actions::kube::object_ref(&object).ok()?;
            Some((name.to_string(), object))
        })
        .collect();
    Ok((objects, unknown))
}

/// What changes for the instance; nothing when nothing does.
fn for_instance(
    name: &str,
    old: &Side,
    new: &Side,
    instance: &Value,
    helm: &Path,
) -> Result<Option<ForInstance>, CliError> {
    let (before, _) = wanted(old, instance, helm)?;
    let (after, unknown) = wanted(new, instance, helm)?;
    let secrets = compare::Secrets::default();
    let mut objects = Vec::new();
    for (object, value) in &before {
        match after.get(object) {
            None => objects.push(Changed {
                object: object.clone(),
                how: "removed",
                restarts: false,
                diff: String::new(),
            }),
            Some(other) if other != value => objects.push(Changed {
                object: object.clone(),
                how: "changed",
                restarts: restarts(value, other),
                diff: compare::whole(Some(value), other, &secrets)?,
            }),
            Some(_) => {}
        }
    }
    for object in after.keys().filter(|object| !before.contains_key(*object)) {
        objects.push(Changed {
            object: object.clone(),
            how: "added",
            restarts: false,
            diff: String::new(),
        });
    }
    Ok((!objects.is_empty()).then(|| ForInstance {
        instance: name.to_owned(),
        objects,
        unknown,
    }))
}

/// The template of a workload's pods is another one. Kinds with an `OnDelete` strategy wait for somebody to delete them.
fn restarts(old: &Value, new: &Value) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet"]
        .iter()
        .any(|kind| new["kind"] == *kind)
        && old["spec"]["template"] != new["spec"]["template"]
}

fn text(definition: &[Difference], parts: &[(&str, Names)], instances: &[ForInstance]) -> String {
    let mut text = String::new();
    let red = AnsiColor::Red.on_default();
    if !definition.is_empty() {
        text.push_str("Definition:\n");
        for Difference {
            field,
            what,
            breaking,
        } in definition
        {
            let (style, word) = if *breaking {
                (red, "breaking")
            } else {
                (Style::new(), "compatible")
            };
            text.push_str(&format!("  {style}{word:<10}{style:#}  {field}: {what}\n"));
        }
    }
    for (title, names) in parts {
        if names.is_empty() {
            continue;
        }
        let mut title = (*title).to_owned();
        title[..1].make_ascii_uppercase();
        text.push_str(&format!("{title}:\n"));
        for name in &names.added {
            text.push_str(&format!("  added    {name}\n"));
        }
        for name in &names.removed {
            text.push_str(&format!("  removed  {name}\n"));
        }
        for (name, keywords) in &names.changed {
            let keywords = if keywords.is_empty() {
                String::new()
            } else {
                format!(" ({})", keywords.join(", "))
            };
            text.push_str(&format!("  changed  {name}{keywords}\n"));
        }
    }
    let mut told = BTreeSet::new();
    for found in instances {
        let fresh: Vec<&Changed> = found
            .objects
            .iter()
            .filter(|changed| told.insert((changed.object.clone(), changed.diff.clone())))
            .collect();
        if fresh.is_empty() {
            continue;
        }
        text.push_str(&format!("Objects of {}:\n", found.instance));
        for changed in fresh {
            let restart = if changed.restarts {
                format!("  {red}its pods restart{red:#}")
            } else {
                String::new()
            };
            text.push_str(&format!(
                "  {:<8} {}{restart}\n",
                changed.how, changed.object
            ));
            for line in changed.diff.lines() {
                text.push_str(&format!("    {line}\n"));
            }
        }
        if !found.unknown.is_empty() {
            text.push_str(&format!(
                "  not known here: objects of {}\n",
                found.unknown.join(", ")
            ));
        }
    }
    if text.is_empty() {
        text.push_str("Nothing differs that matters.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changed(change: impl Fn(&str, &mut String)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in packages::bundled_files("redis").unwrap() {
            let mut text = text;
            change(&name, &mut text);
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_package_does_not_differ_from_itself() {
        let side = side("redis").unwrap();
        assert!(names(&rules(&side), &rules(&side)).is_empty());
        let object = json!({"apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster", "metadata": {"name": "demo"}, "spec": {"size": 3}});
        let found = for_instance("x", &side, &side, &object, Path::new("helm")).unwrap();
        assert!(found.is_none());
    }

    #[test]
    fn a_changed_template_restarts_pods() {
        let folder = changed(|name, text| {
            if name.starts_with("objects/") {
                *text = text.replace("redis-port", "redis-tcp").replace(
                    "terminationGracePeriodSeconds: ",
                    "terminationGracePeriodSeconds: 1",
                );
            }
        });
        let (old, new) = (
            side("redis").unwrap(),
            side(folder.path().to_str().unwrap()).unwrap(),
        );
        let object = json!({"apiVersion": "redis.kun/v1beta1", "kind": "RedisCluster", "metadata": {"name": "demo"}, "spec": {"size": 3}});
        let found = for_instance("x", &old, &new, &object, Path::new("helm"))
            .unwrap()
            .unwrap();
        assert!(
            found
                .objects
                .iter()
                .any(|object| object.restarts && object.object.starts_with("StatefulSet")),
            "{found:?}"
        );
        let told = names(&rules(&old), &rules(&new));
        assert!(
            !told.changed.is_empty() && told.added.is_empty(),
            "{told:?}"
        );
    }

    #[test]
    fn names_say_what_of_it_changed() {
        let of = |value: Value| members(&value);
        let names = names(
            &of(json!({"a": {"for": "1", "call": "x"}, "b": 1, "c": 1})),
            &of(json!({"a": {"for": "2", "call": "x"}, "b": 1, "d": 1})),
        );
        assert_eq!(names.added, ["d"]);
        assert_eq!(names.removed, ["c"]);
        assert_eq!(names.changed["a"], ["for"]);
    }

    #[test]
    fn patterns_stay_in_their_folder() {
        for (pattern, file, expected) in [
            ("objects/*.yaml", "objects/a.yaml", true),
            ("objects/*.yaml", "objects/a/b.yaml", false),
            ("objects/a.yaml", "objects/a.yaml", true),
            ("*", "a", true),
        ] {
            assert_eq!(matches(pattern, file), expected, "{pattern} {file}");
        }
    }
}
