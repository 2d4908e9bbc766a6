//! `helm:` — a chart of the package, and which Kinds it can give.
//!
//! What a package may write, watch and needs rights for must be known before anything is rendered. Kinds are therefore read off the
//! chart's templates as text; what cannot be read off is named by the author, and a manifest of any other Kind is refused when it
//! appears.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use libretto_api::{chart::Chart, object::Gvk, package::PACKAGE_FILE};
use libretto_mirror::digest;
use regex::Regex;

use super::{Check, HelmTemplate, suggestion};
use crate::{
    template::{Names, Tree},
    yaml::{self, At, Data, Node},
};

/// What an author can say a chart goes without, because it has no meaning here.
pub(super) const SKIPS: &[(&str, &str)] = &[
    ("lookup", "`lookup` finds nothing"),
    ("crds", "the definitions in `crds/` are not installed"),
    ("hooks", "only hooks of the installation are run"),
];

/// The verb's node to what the rule renders.
pub(super) fn helm(
    check: &mut Check<'_>,
    node: &Node,
    place: &str,
    names: &Names,
    own: bool,
) -> Option<HelmTemplate> {
    let place = format!("{place}: helm");
    check.only(
        node,
        &place,
        &["chart", "from", "release", "values", "kinds", "skip"],
    );
    let from = node.get("from").and_then(|node| from(check, node, &place));
    let release = node.get("release").map(|node| check.tree(node, names));
    let values = match node.get("values").map(|node| (node, &node.data)) {
        None => Vec::new(),
        Some((_, Data::List(items))) => items
            .iter()
            .filter_map(|item| values(check, item, &place, names))
            .collect(),
        Some((node, _)) => values(check, node, &place, names).into_iter().collect(),
    };
    let skips = skips(check, node, &place);
    let mut kinds = BTreeSet::new();
    let named = match node.get("kinds") {
        Some(list) => check.texts(list, &format!("{place}: kinds")),
        None => Vec::new(),
    };
    for (text, at) in &named {
        kinds.extend(check.gvk(text, *at));
    }
    let author = kinds.clone();
    let name = check.required_text(node, &place, "chart")?;
    let at = node.get("chart").map_or(node.at, |node| node.at);
    let chart = chart(check, &name, at, &place, from.as_ref())?;
    kinds.extend(examine(check, &chart, at, &place, &skips, named.is_empty()));
    Some(HelmTemplate {
        chart: Arc::new(chart),
        release,
        values,
        kinds,
        named: author,
        hooks_skipped: skips.contains("hooks"),
        own,
    })
}

/// Values in place, or in a file of the package.
fn values(check: &mut Check<'_>, node: &Node, place: &str, names: &Names) -> Option<Tree> {
    match &node.data {
        Data::Map(_) => Some(check.tree(node, names)),
        Data::Text(file) => {
            let Some(source) = check.files.get(file).cloned() else {
                let hint = suggestion(file, check.files.keys());
                check.error(
                    PACKAGE_FILE,
                    node.at,
                    format!("{place}: values: there is no file `{file}`"),
                    hint,
                );
                return None;
            };
            let documents = match yaml::parse(file, &source) {
                Ok(documents) => documents,
                Err(diagnostic) => {
                    check.diagnostics.push(diagnostic);
                    return None;
                }
            };
            match documents.as_slice() {
                [] => None,
                [root] if matches!(root.data, Data::Map(_) | Data::Null) => {
                    Some(check.tree_in(file, root, names))
                }
                _ => {
                    check.error(
                        file,
                        At { line: 1, column: 1 },
                        "values must be one map",
                        None,
                    );
                    None
                }
            }
        }
        _ => {
            check.wrong(
                node.at,
                format!(
                    "{place}: values must be a map, a file, or a list of these, this is {}",
                    node.what()
                ),
            );
            None
        }
    }
}

fn skips(check: &mut Check<'_>, node: &Node, place: &str) -> BTreeSet<String> {
    let Some(list) = node.get("skip") else {
        return BTreeSet::new();
    };
    let mut skips = BTreeSet::new();
    for (text, at) in check.texts(list, &format!("{place}: skip")) {
        if SKIPS.iter().any(|(known, _)| *known == text) {
            skips.insert(text);
        } else {
            let known: Vec<String> = SKIPS
                .iter()
                .map(|(name, meaning)| format!("{name} ({meaning})"))
                .collect();
            check.wrong_hint(
                at,
                format!("{place}: skip: `{text}` is not known"),
                known.join(", "),
            );
        }
    }
    skips
}

/// Where a chart was taken from: what runs is what lies in the package, and this is how it came there.
struct From {
    version: String,
    at: At,
}

fn from(check: &mut Check<'_>, node: &Node, place: &str) -> Option<From> {
    let place = format!("{place}.from");
    check.only(node, &place, &["repository", "name", "version"]);
    let repository = check.required_text(node, &place, "repository");
    let name = check.required_text(node, &place, "name");
    let version = check.required_text(node, &place, "version");
    let at = |key: &str| node.get(key).map_or(node.at, |node| node.at);
    let known = ["https://", "http://", "oci://"];
    if repository.is_some_and(|repository| !known.iter().any(|begin| repository.starts_with(begin)))
    {
        check.wrong_hint(
            at("repository"),
            format!("{place}.repository is no repository of charts"),
            "https://HOST/PATH, or oci://HOST/PATH without the chart's name",
        );
    }
    name?;
    Some(From {
        version: version?,
        at: at("version"),
    })
}

/// `version` of a Chart.yaml.
fn version(text: &str) -> Option<String> {
    let chart: serde_json::Value = serde_saphyr::from_str(text).ok()?;
    Some(chart["version"].as_str()?.to_owned())
}

/// The chart in a folder of the package, or in an archive, which is read as a folder of that name.
fn chart(
    check: &mut Check<'_>,
    name: &str,
    at: At,
    place: &str,
    from: Option<&From>,
) -> Option<Chart> {
    let prefix = prefix(check.files, name);
    let files: BTreeMap<String, String> = check
        .files
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
        .map(|(path, text)| (path[prefix.len()..].to_owned(), text.clone()))
        .collect();
    if !files.contains_key("Chart.yaml") {
        let charts: Vec<String> = check
            .files
            .keys()
            .filter_map(|path| path.strip_suffix("/Chart.yaml"))
            // Not the charts inside charts.
            .filter(|folder| !folder.contains("/charts/"))
            .map(str::to_owned)
            .collect();
        let hint = suggestion(name, &charts).unwrap_or_else(|| {
            if from.is_some() {
                "`libretto package fetch` gets it".to_owned()
            } else if charts.is_empty() {
                "put the chart into the package: its folder, or its archive as `helm pull` writes it"
                    .to_owned()
            } else {
                format!("the package has: {}", charts.join(", "))
            }
        });
        check.wrong_hint(at, format!("{place}: there is no chart `{name}`"), hint);
        return None;
    }
    if let Some(from) = from {
        let version = version(&files["Chart.yaml"]);
        if version.as_deref() != Some(from.version.as_str()) {
            check.wrong_hint(
                from.at,
                format!(
                    "{place}: chart `{name}` is of version {}, and `from` says {}",
                    version.as_deref().unwrap_or("none"),
                    from.version
                ),
                "`libretto package fetch` gets the one that is said",
            );
        }
    }
    let mut all = String::new();
    for (path, text) in &files {
        // Lengths keep one file's end apart from the next one's beginning.
        all.push_str(&format!("{} {}\n{path}{text}", path.len(), text.len()));
    }
    Some(Chart {
        name: name.to_owned(),
        digest: digest(all.as_bytes()),
        files,
    })
}

/// Where the chart's files are: a folder, an archive, or the one archive of that name with a version.
fn prefix(files: &crate::Files, name: &str) -> String {
    let name = name.trim_start_matches("./").trim_end_matches('/');
    let archives: Vec<&str> = files
        .keys()
        .filter_map(|path| path.strip_suffix("/Chart.yaml"))
        .filter(|folder| {
            folder
                .strip_prefix(name)
                .and_then(|rest| rest.strip_suffix(".tgz"))
                .is_some_and(|version| {
                    version.is_empty()
                        || version.strip_prefix('-').is_some_and(|version| {
                            version.starts_with(|c: char| c.is_ascii_digit())
                        })
                })
        })
        .collect();
    match archives.as_slice() {
        [archive] if !files.contains_key(&format!("{name}/Chart.yaml")) => format!("{archive}/"),
        _ => format!("{name}/"),
    }
}

/// Kinds that the chart's templates name; complains about what has no meaning here unless the author knows.
fn examine(
    check: &mut Check<'_>,
    chart: &Chart,
    at: At,
    place: &str,
    skips: &BTreeSet<String>,
    strict: bool,
) -> BTreeSet<Gvk> {
    let mut kinds = BTreeSet::new();
    let complain = |check: &mut Check<'_>, skip: &str, message: String| {
        if !skips.contains(skip) {
            let meaning = SKIPS
                .iter()
                .find(|(name, _)| *name == skip)
                .map_or("", |(_, meaning)| meaning);
            check.wrong_hint(
                at,
                format!("{place}: chart {}: {message}", chart.name),
                format!("`skip: [{skip}]` goes on without: {meaning}"),
            );
        }
    };
    if let Some(file) = chart.files.keys().find(|path| in_folder(path, "crds")) {
        complain(
            check,
            "crds",
            format!("{file} is a definition that Helm would install once and never change"),
        );
    }
    for (file, text) in &chart.files {
        if !in_folder(file, "templates") {
            continue;
        }
        if let Some(line) = line_of(&LOOKUP, text) {
            complain(
                check,
                "lookup",
                format!("{file}:{line} calls `lookup`, and charts do not see the cluster here"),
            );
        }
        let helper = file
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with('_') || name.eq_ignore_ascii_case("NOTES.txt"));
        if helper || file.contains("/tests/") {
            continue;
        }
        for hook in HOOK.captures_iter(text) {
            let all = hook[1].trim();
            let runs = all.split(',').any(|name| {
                matches!(
                    name.trim(),
                    "pre-install" | "post-install" | "test" | "test-success"
                )
            });
            if !runs && !all.contains("{{") {
                complain(
                    check,
                    "hooks",
                    format!("{file} is a hook that is run at {all}"),
                );
            }
        }
        for (line, found) in kinds_of(&without_tests(text)) {
            match found {
                Ok(gvk) => {
                    kinds.insert(gvk);
                }
                Err(what) if strict => check.wrong_hint(
                    at,
                    format!(
                        "{place}: chart {}: {file}:{line}: which Kind `{what}` is cannot be read off",
                        chart.name
                    ),
                    "name all such Kinds: `kinds: [apps/v1/Deployment, v1/Service]`",
                ),
                Err(_) => {}
            }
        }
    }
    kinds
}

/// `templates/x.yaml` and `charts/sub/templates/x.yaml`, but not `files/templates/x.yaml`.
fn in_folder(path: &str, folder: &str) -> bool {
    let mut parts = path.split('/');
    loop {
        match parts.next() {
            Some("charts") => {
                parts.next();
            }
            Some(part) => return part == folder && parts.next().is_some(),
            None => return false,
        }
    }
}

static LOOKUP: LazyLock<Regex> = LazyLock::new(|| expression(r#"[{(|=-]\s*lookup\s+["$.(]"#));
static HOOK: LazyLock<Regex> =
    LazyLock::new(|| expression(r#"(?m)^\s+["']?helm\.sh/hook["']?:\s*["']?([^"'\n]+)"#));
static KIND: LazyLock<Regex> = LazyLock::new(|| expression(r"^kind:\s*(.*?)\s*(\s#.*)?$"));
static VERSION: LazyLock<Regex> = LazyLock::new(|| expression(r"^apiVersion:\s*(.*?)\s*(\s#.*)?$"));

fn expression(text: &str) -> Regex {
    Regex::new(text).expect("a constant expression compiles")
}

fn line_of(expression: &Regex, text: &str) -> Option<usize> {
    text.lines()
        .position(|line| expression.is_match(line))
        .map(|index| index + 1)
}

/// The text with the documents that are tests left blank, so that lines keep their numbers: nobody runs them here.
fn without_tests(text: &str) -> String {
    let is_test = |document: &str| {
        HOOK.captures(document).is_some_and(|hook| {
            hook[1]
                .split(',')
                .all(|name| matches!(name.trim(), "test" | "test-success" | "test-failure"))
        })
    };
    let mut kept = String::new();
    let mut document = String::new();
    let end = |document: &mut String, kept: &mut String| {
        if is_test(document) {
            kept.push_str(&"\n".repeat(document.matches('\n').count()));
        } else {
            kept.push_str(document);
        }
        document.clear();
    };
    for line in text.split_inclusive('\n') {
        if line.starts_with("---") {
            end(&mut document, &mut kept);
        }
        document.push_str(line);
    }
    end(&mut document, &mut kept);
    kept
}

/// Kinds of a template's documents with the lines that name them, or the text that does not tell.
fn kinds_of(text: &str) -> Vec<(usize, Result<Gvk, String>)> {
    let mut found = Vec::new();
    let mut versions: Vec<String> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("---") {
            versions.clear();
        } else if let Some(version) = VERSION.captures(line) {
            versions.push(unquoted(&version[1]));
        } else if let Some(kind) = KIND.captures(line) {
            let kind = unquoted(&kind[1]);
            found.push((index + 1, kind_of(&kind, &versions)));
        }
    }
    found
}

/// A plain scalar's text; what a template computes stays as it is.
fn unquoted(text: &str) -> String {
    if text.contains("{{") {
        return text.to_owned();
    }
    text.trim_matches(['"', '\'']).to_owned()
}

/// The Kind, by its name and the versions that stand before it (several in the branches of an `if`).
fn kind_of(kind: &str, versions: &[String]) -> Result<Gvk, String> {
    if kind.contains("{{") || kind.is_empty() {
        return Err(kind.to_owned());
    }
    let plain: Vec<&String> = versions
        .iter()
        .filter(|version| !version.contains("{{") && !version.is_empty())
        .collect();
    let group = |version: &str| {
        version
            .split_once('/')
            .map_or("", |(group, _)| group)
            .to_owned()
    };
    let known = KNOWN.iter().find(|(name, ..)| *name == kind);
    let version = match (known, plain.first()) {
        (Some((_, known)), None) => *known,
        // An old version of a Kind that has a newer one is what its other branch is for.
        (Some((_, known)), Some(_))
            if plain.iter().any(|version| {
                group(version) == group(known) || version.starts_with("extensions/")
            }) =>
        {
            known
        }
        (_, Some(version)) => version.as_str(),
        (None, None) => return Err(kind.to_owned()),
    };
    format!("{version}/{kind}")
        .parse()
        .map_err(|_| kind.to_owned())
}

/// Kinds whose version charts compute, with the version every Kubernetes of today serves.
const KNOWN: &[(&str, &str)] = &[
    ("ConfigMap", "v1"),
    ("Secret", "v1"),
    ("Service", "v1"),
    ("ServiceAccount", "v1"),
    ("PersistentVolumeClaim", "v1"),
    ("Pod", "v1"),
    ("Deployment", "apps/v1"),
    ("StatefulSet", "apps/v1"),
    ("DaemonSet", "apps/v1"),
    ("Job", "batch/v1"),
    ("CronJob", "batch/v1"),
    ("Ingress", "networking.k8s.io/v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("PodDisruptionBudget", "policy/v1"),
    ("HorizontalPodAutoscaler", "autoscaling/v2"),
    ("Role", "rbac.authorization.k8s.io/v1"),
    ("RoleBinding", "rbac.authorization.k8s.io/v1"),
    ("ClusterRole", "rbac.authorization.k8s.io/v1"),
    ("ClusterRoleBinding", "rbac.authorization.k8s.io/v1"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kinds_are_read_off_templates() {
        let text = "\
{{- if .Values.on }}
apiVersion: {{ include \"x.version\" . }}
kind: Ingress
---
{{- if old }}
apiVersion: networking.k8s.io/v1beta1
{{- else }}
apiVersion: networking.k8s.io/v1
{{- end }}
kind: Ingress
---
apiVersion: v1
kind: \"Service\" # the front
spec:
  kind: Nested
---
apiVersion: serving.knative.dev/v1
kind: Service
---
apiVersion: {{ .Values.version }}
kind: Widget
---
apiVersion: apps/v1
kind: {{ ternary \"A\" \"B\" .Values.a }}
";
        let found: Vec<(usize, Result<String, String>)> = kinds_of(text)
            .into_iter()
            .map(|(line, gvk)| (line, gvk.map(|gvk| gvk.to_string())))
            .collect();
        let kind = |text: &str| Ok(text.parse::<Gvk>().unwrap().to_string());
        assert_eq!(
            found,
            [
                (3, kind("networking.k8s.io/v1/Ingress")),
                (10, kind("networking.k8s.io/v1/Ingress")),
                (13, kind("v1/Service")),
                (18, kind("serving.knative.dev/v1/Service")),
                (21, Err("Widget".to_owned())),
                (24, Err("{{ ternary \"A\" \"B\" .Values.a }}".to_owned())),
            ]
        );
    }

    #[test]
    fn folders_of_subcharts_count_and_others_do_not() {
        for (path, expected) in [
            ("templates/a.yaml", true),
            ("templates/deep/a.yaml", true),
            ("charts/sub/templates/a.yaml", true),
            ("charts/sub/charts/subsub/templates/a.yaml", true),
            ("files/templates/a.yaml", false),
            ("templates", false),
            ("values.yaml", false),
        ] {
            assert_eq!(in_folder(path, "templates"), expected, "{path}");
        }
    }

    #[test]
    fn tests_are_left_out() {
        let text = "kind: Job\n---\nkind: Pod\nmetadata:\n  annotations:\n    \"helm.sh/hook\": test\n---\nkind: Service\n";
        let lines: Vec<usize> = kinds_of(&without_tests(text))
            .into_iter()
            .map(|(line, _)| line)
            .collect();
        assert_eq!(lines, [1, 8]);
    }

    #[test]
    fn calls_of_lookup_are_seen() {
        for (text, expected) in [
            (
                "{{ lookup \"v1\" \"Secret\" .Release.Namespace \"x\" }}",
                Some(1),
            ),
            (
                "a\n{{- $s := (lookup \"v1\" \"Secret\" ns name) }}",
                Some(2),
            ),
            ("{{/* a lookup table */}}\nlookup: yes", None),
        ] {
            assert_eq!(line_of(&LOOKUP, text), expected, "{text}");
        }
    }
}
