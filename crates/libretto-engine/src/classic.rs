//! SREWorks' form of a package, read as one of ours.
//!
//! ```yaml
//! default:
//!   def: crd.yaml
//!   deploy:
//!     - {cmd: helm, chart: vvp/vvp, values: vvp/values.yaml}
//!   maintain:
//!     - watch: {category: ResourceDidChange, kind: Service, apiVersion: v1}
//!       action: [{cmd: kube-patch, file: ingressUpdate.yaml}]
//! ```
//!
//! `def` is `crd`, each entry of `deploy` a rule with one row, each `watch` a table, each `action` a rule with a row per watched object.
//! What is deployed is left as others change it until what is wanted changes, because that is what makes a watched change last; a
//! `kube-patch` takes the fields that it names.

use std::collections::{BTreeMap, BTreeSet};

use libretto_api::package::{PACKAGE_FILE, TESTS_FILE};
use serde_json::{Value, json};

use crate::{
    Diagnostic, Files,
    folder::whole_file,
    template::suggestion,
    yaml::{self, At, Data, Node},
};

/// Keys of a controller.
const PARTS: &[&str] = &["def", "deploy", "maintain"];
/// Columns of `cr` that every package has.
const TAKEN: &[&str] = &[
    "uid",
    "namespace",
    "name",
    "generation",
    "deleting",
    "created",
    "labels",
    "annotations",
    "status",
    "finalizers",
    "spec",
];

/// The file of a folder that is in SREWorks' form, when there is no `package.yaml`.
pub fn classic_file(files: &Files) -> Option<String> {
    if files.contains_key(PACKAGE_FILE) {
        return None;
    }
    files
        .iter()
        .find(|(name, text)| classic_name(name) && controllers(name, text).is_some())
        .map(|(name, _)| name.clone())
}

fn classic_name(name: &str) -> bool {
    (name.ends_with(".yaml") || name.ends_with(".yml")) && !name.contains('/') && name != TESTS_FILE
}

/// The first document, when each of its keys is a controller.
fn controllers(name: &str, text: &str) -> Option<Node> {
    let root = yaml::parse(name, text).ok()?.into_iter().next()?;
    let fits = !root.entries().is_empty()
        && root.entries().iter().all(|(_, controller)| {
            PARTS.iter().any(|part| controller.get(part).is_some())
                && controller.get("apiVersion").is_none()
        });
    fits.then_some(root)
}

/// The package that the folder is, in today's form: its files with a `package.yaml`. What is not in SREWorks' form stays as it is.
pub fn convert(files: &Files) -> Result<Files, Vec<Diagnostic>> {
    let Some(file) = classic_file(files) else {
        return Ok(files.clone());
    };
    let root = controllers(&file, &files[&file]).expect("`classic_file` has just read it");
    let mut reader = Reader {
        file: &file,
        files,
        problems: Vec::new(),
        tables: BTreeMap::new(),
        tables_text: String::new(),
        rules: String::new(),
    };
    let documents = yaml::parse(&file, &files[&file]).map_or(1, |documents| documents.len());
    if documents > 1 {
        reader.wrong(
            root.at,
            format!("{documents} documents in one file"),
            "give each controller a folder of its own: each is a package".to_owned(),
        );
    }
    for (other, text) in files {
        if *other != file && classic_name(other) && controllers(other, text).is_some() {
            reader.problems.push(whole_file(
                other,
                format!("is a controller too, beside {file}: give each a folder of its own"),
            ));
        }
    }
    let converted = reader.package(&root);
    match converted {
        Some((definition, text)) if reader.problems.is_empty() => {
            let mut converted = files.clone();
            converted.remove(&file);
            if let Some((name, crd)) = definition {
                converted.insert(name, crd);
            }
            converted.insert(PACKAGE_FILE.to_owned(), text);
            Ok(converted)
        }
        _ => Err(reader.problems),
    }
}

struct Reader<'a> {
    file: &'a str,
    files: &'a Files,
    problems: Vec<Diagnostic>,
    /// Names in use.
    tables: BTreeMap<String, usize>,
    tables_text: String,
    rules: String,
}

type Rewritten = Option<(String, String)>;

impl Reader<'_> {
    fn wrong(&mut self, at: At, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.problems.push(Diagnostic {
            file: self.file.to_owned(),
            line: at.line,
            column: at.column,
            message: message.into(),
            hint: hint.into(),
        });
    }

    fn package(&mut self, root: &Node) -> Option<(Rewritten, String)> {
        let [(_, controller)] = root.entries() else {
            self.wrong(
                root.at,
                format!("{} controllers in one file", root.entries().len()),
                "give each a folder of its own: each is a package".to_owned(),
            );
            return None;
        };
        self.only(controller, "the controller", PARTS);
        let definition = self.definition(controller);
        for (number, action) in self.list(controller, "deploy").iter().enumerate() {
            self.action(action, &format!("deploy-{}", number + 1), None);
        }
        for (number, entry) in self.list(controller, "maintain").iter().enumerate() {
            self.maintain(entry, number + 1);
        }
        let (name, version, crd, fields, rewritten) = definition?;
        let sense = if self.tables_text.is_empty() {
            String::new()
        } else {
            format!("  sense:\n{}", self.tables_text)
        };
        let text = format!(
            "# From {}, which is in SREWorks' form.\napiVersion: libretto.dev/v1alpha1\nkind: Package\nmetadata: {{name: {name}, version: 1.0.0}}\nspec:\n  crd:\n    file: {crd}\n    version: {version}\n    fields:\n{fields}{sense}  execute:\n{}",
            self.file, self.rules
        );
        Some((rewritten, text))
    }

    /// Name of the package, version of its Kind, file and fields of the definition, and the definition when it had to be completed.
    fn definition(
        &mut self,
        controller: &Node,
    ) -> Option<(String, String, String, String, Rewritten)> {
        let Some(node) = controller.get("def") else {
            self.wrong(
                controller.at,
                "the controller needs `def`",
                "the file of its CustomResourceDefinition".to_owned(),
            );
            return None;
        };
        let (name, text) = self.named(node, "def")?;
        let mut documents = match yaml::parse(&name, &text) {
            Ok(documents) => documents,
            Err(diagnostic) => {
                self.problems.push(diagnostic);
                return None;
            }
        };
        let Some(crd) = documents.pop().filter(|_| documents.is_empty()) else {
            self.problems
                .push(whole_file(&name, "must hold one definition".to_owned()));
            return None;
        };
        let mut crd = crd.to_json();
        let kind = crd["spec"]["names"]["kind"]
            .as_str()
            .unwrap_or_default()
            .to_lowercase();
        let versions = crd.pointer_mut("/spec/versions");
        let version = versions.and_then(Value::as_array_mut).and_then(|versions| {
            versions
                .iter_mut()
                .find(|version| version["storage"] == true && can_be_completed(version))
        });
        let Some(version) = version.filter(|_| !kind.is_empty()) else {
            self.problems.push(whole_file(
                &name,
                "is no CustomResourceDefinition of apiextensions.k8s.io/v1".to_owned(),
            ));
            return None;
        };
        let completed = complete(version);
        let served = version["name"].as_str().unwrap_or_default().to_owned();
        let mut fields = "      spec: {path: spec, type: json}\n".to_owned();
        let properties = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        for (field, schema) in properties.as_object().into_iter().flatten() {
            let word = field.starts_with(|c: char| c.is_ascii_alphabetic())
                && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !word || TAKEN.contains(&field.as_str()) {
                continue;
            }
            let kind = match schema["type"].as_str() {
                Some("string") => "string",
                Some("integer") => "int",
                Some("number") => "float",
                Some("boolean") => "bool",
                _ => "json",
            };
            fields.push_str(&format!(
                "      {field}: {{path: spec.{field}, type: {kind}}}\n"
            ));
        }
        let rewritten = completed.then(|| {
            let text = serde_json::to_string_pretty(&crd).expect("JSON can be written");
            (name.clone(), text)
        });
        Some((kind, served, name, fields, rewritten))
    }

    fn maintain(&mut self, entry: &Node, number: usize) {
        self.only(entry, "an entry of maintain", &["watch", "action"]);
        let Some(watch) = entry.get("watch") else {
            self.wrong(entry.at, "an entry of maintain needs `watch`", None);
            return;
        };
        self.only(
            watch,
            "watch",
            &["category", "kind", "apiVersion", "name", "labels"],
        );
        match watch.get("category").map(|node| (node.at, node.text())) {
            None | Some((_, Some("ResourceDidChange" | "ResourceDidAdd"))) => {}
            Some((at, Some("ResourceDidDelete"))) => self.wrong(
                at,
                "watch: what an action did goes with the object that it watches; there is nothing to do at ResourceDidDelete",
                "a call that takes something back is the modifier `undo` of today's form".to_owned(),
            ),
            Some((at, _)) => self.wrong(
                at,
                "watch: category is not known",
                "ResourceDidChange or ResourceDidAdd, which are the same: a rule holds while the object is there".to_owned(),
            ),
        }
        let text = |key: &str| watch.get(key).and_then(Node::text).map(str::to_owned);
        let (Some(kind), Some(version)) = (text("kind"), text("apiVersion")) else {
            self.wrong(watch.at, "watch needs `kind` and `apiVersion`", None);
            return;
        };
        let table = self.table(&kind);
        let actions = self.list(entry, "action");
        let mut members = BTreeSet::new();
        for action in &actions {
            for key in ["file", "values"] {
                if let Some(text) = action
                    .get(key)
                    .and_then(Node::text)
                    .and_then(|file| self.files.get(file))
                {
                    members.extend(members_of("resource", text));
                }
            }
        }
        self.tables_text
            .push_str(&format!("    {table}:\n      watch: {version}/{kind}\n"));
        if let Some(labels) = watch.get("labels") {
            self.tables_text
                .push_str(&format!("      where: {{labels: {}}}\n", labels.to_json()));
        }
        let mut columns = "name".to_owned();
        if !members.is_empty() {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            self.tables_text.push_str(&format!(
                "      cols:\n        resource: {{path: ., type: json, only: [{}]}}\n",
                members.join(", ")
            ));
            columns.push_str(", resource");
        }
        let filter = text("name").map_or_else(String::new, |name| {
            format!(" AND name = '{}'", name.replace('\'', "''"))
        });
        let rows = format!("SELECT {columns} FROM {table} WHERE NOT deleting{filter}");
        for (index, action) in actions.iter().enumerate() {
            let name = if actions.len() == 1 {
                format!("maintain-{number}")
            } else {
                format!("maintain-{number}-{}", index + 1)
            };
            self.action(action, &name, Some(&rows));
        }
    }

    /// One instruction as a rule.
    fn action(&mut self, action: &Node, name: &str, rows: Option<&str>) {
        let Some(command) = action.get("cmd") else {
            self.wrong(
                action.at,
                format!("{name} needs `cmd`"),
                "helm, kube-apply or kube-patch".to_owned(),
            );
            return;
        };
        let body = match command.text() {
            Some("helm") => {
                let keys = ["cmd", "chart", "values", "release", "kinds", "skip"];
                self.only(action, name, &keys);
                let given: Vec<String> = action
                    .entries()
                    .iter()
                    .filter(|(key, _)| key.text != "cmd")
                    .map(|(key, value)| format!("{}: {}", key.text, value.to_json()))
                    .collect();
                format!("helm: {{{}}}\n      drift: keep", given.join(", "))
            }
            Some(command @ ("kube-apply" | "kube-patch")) => {
                self.only(action, name, &["cmd", "file"]);
                let Some(file) = action.get("file") else {
                    self.wrong(action.at, format!("{name} needs `file`"), None);
                    return;
                };
                let Some((file, _)) = self.named(file, name) else {
                    return;
                };
                if command == "kube-apply" {
                    format!("apply: {}\n      drift: keep", json!(file))
                } else {
                    format!("patch: {}\n      force: true", json!(file))
                }
            }
            _ => {
                let known = ["helm", "kube-apply", "kube-patch"].map(str::to_owned);
                let text = command.text().unwrap_or_default().to_owned();
                let hint = suggestion(&text, &known)
                    .unwrap_or_else(|| format!("there are: {}", known.join(", ")));
                self.wrong(
                    command.at,
                    format!("{name}: there is no cmd `{text}`"),
                    hint,
                );
                return;
            }
        };
        let rows = rows.map_or_else(String::new, |rows| format!("      for: {rows}\n"));
        self.rules
            .push_str(&format!("    - name: {name}\n{rows}      {body}\n"));
    }

    /// A table of its own for each watch.
    fn table(&mut self, kind: &str) -> String {
        let word: String = kind
            .to_lowercase()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        let count = self.tables.entry(word.clone()).or_default();
        *count += 1;
        match *count {
            1 => format!("{word}_rows"),
            several => format!("{word}_rows_{several}"),
        }
    }

    /// A file that a node names, with its text.
    fn named(&mut self, node: &Node, place: &str) -> Option<(String, String)> {
        let Some(name) = node.text() else {
            self.wrong(
                node.at,
                format!(
                    "{place} must be the name of a file, this is {}",
                    node.what()
                ),
                None,
            );
            return None;
        };
        match self.files.get(name) {
            Some(text) => Some((name.to_owned(), text.clone())),
            None => {
                let hint = suggestion(name, self.files.keys());
                self.wrong(node.at, format!("{place}: there is no file `{name}`"), hint);
                None
            }
        }
    }

    fn list(&mut self, node: &Node, key: &str) -> Vec<Node> {
        match node.get(key).map(|node| (node, &node.data)) {
            None | Some((_, Data::Null)) => Vec::new(),
            Some((_, Data::List(items))) => items.clone(),
            Some((node, _)) => {
                self.wrong(
                    node.at,
                    format!("{key} must be a list, this is {}", node.what()),
                    None,
                );
                Vec::new()
            }
        }
    }

    fn only(&mut self, node: &Node, place: &str, known: &[&str]) {
        if !matches!(node.data, Data::Map(_)) {
            self.wrong(
                node.at,
                format!("{place} must be a map, this is {}", node.what()),
                None,
            );
        }
        for (key, _) in node.entries() {
            if !known.contains(&key.text.as_str()) {
                self.wrong(
                    key.at,
                    format!("unknown keyword `{}` in {place}", key.text),
                    format!("{place} knows: {}", known.join(", ")),
                );
            }
        }
    }
}

/// Whether what [`complete`] writes into is a map, or not there.
fn can_be_completed(version: &Value) -> bool {
    [
        "/subresources",
        "/schema",
        "/schema/openAPIV3Schema",
        "/schema/openAPIV3Schema/properties",
        "/schema/openAPIV3Schema/properties/status",
    ]
    .iter()
    .filter_map(|path| version.pointer(path))
    .all(|there| there.is_object() || there.is_null())
}

/// Gives a version what every package's Kind needs: a status that can be written. Whether anything was missing.
fn complete(version: &mut Value) -> bool {
    let mut missing = false;
    if !version["subresources"]["status"].is_object() {
        version["subresources"]["status"] = json!({});
        missing = true;
    }
    if version["additionalPrinterColumns"].is_null() {
        let column = |name: &str, path: &str, kind: &str| json!({"name": name, "type": kind, "jsonPath": path});
        version["additionalPrinterColumns"] = json!([
            column(
                "Ready",
                ".status.conditions[?(@.type==\"Ready\")].status",
                "string"
            ),
            column(
                "Reason",
                ".status.conditions[?(@.type==\"Ready\")].reason",
                "string"
            ),
            column("Age", ".metadata.creationTimestamp", "date"),
        ]);
        missing = true;
    }
    let schema = &mut version["schema"]["openAPIV3Schema"];
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return missing;
    }
    let status = &mut schema["properties"]["status"];
    if status["properties"]["conditions"].is_null()
        && status["x-kubernetes-preserve-unknown-fields"] != true
    {
        status["type"] = json!("object");
        status["x-kubernetes-preserve-unknown-fields"] = json!(true);
        missing = true;
    }
    missing
}

/// The first words after `variable.` in a template's text.
fn members_of(variable: &str, text: &str) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    for (index, _) in text.match_indices(variable) {
        let before = text[..index].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.') {
            continue;
        }
        let rest = &text[index + variable.len()..];
        let member: String = rest
            .strip_prefix('.')
            .unwrap_or_default()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        if !member.is_empty() {
            members.insert(member);
        }
    }
    members
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{load_files, render};

    const SAMPLE: &str = "\
default:
  def: crd.yaml
  deploy:
  - cmd: helm
    chart: vvp/vvp
    values: vvp/values.yaml
  maintain:
  - watch:
      category: ResourceDidChange
      kind: Service
      apiVersion: v1
    action:
    - cmd: kube-patch
      file: ingressUpdate.yaml
";

    const CRD: &str = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "vvps.example.dev"},
        "spec": {"group": "example.dev", "scope": "Namespaced", "names": {"kind": "Vvp", "plural": "vvps"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties":
            {"spec": {"type": "object", "properties": {"host": {"type": "string"}, "port": {"type": "integer"}, "odd-name": {"type": "string"}}}}}}}]}}"#;

    const UPDATE: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: \"{{ cr.name }}\"
spec:
  rules:
  - host: \"{{ cr.spec.host }}\"
    http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: \"{{ name }}\", port: {number: \"{{ resource.spec.ports[0].port }}\"}}}
";

    fn files(controller: &str) -> Files {
        [
            ("controller.yaml", controller),
            ("crd.yaml", CRD),
            ("ingressUpdate.yaml", UPDATE),
            ("vvp/values.yaml", "service: {port: \"{{ cr.port }}\"}\n"),
            (
                "vvp/vvp/Chart.yaml",
                "apiVersion: v2\nname: vvp\nversion: 1.0.0\n",
            ),
            (
                "vvp/vvp/templates/service.yaml",
                "apiVersion: v1\nkind: Service\nmetadata: {name: vvp}\n",
            ),
        ]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect()
    }

    #[test]
    fn the_sample_is_a_package() {
        let converted =
            convert(&files(SAMPLE)).unwrap_or_else(|found| panic!("{}", render(&found)));
        let expected = "\
# From controller.yaml, which is in SREWorks' form.
apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {name: vvp, version: 1.0.0}
spec:
  crd:
    file: crd.yaml
    version: v1
    fields:
      spec: {path: spec, type: json}
      host: {path: spec.host, type: string}
      port: {path: spec.port, type: int}
  sense:
    service_rows:
      watch: v1/Service
      cols:
        resource: {path: ., type: json, only: [spec]}
  execute:
    - name: deploy-1
      helm: {chart: \"vvp/vvp\", values: \"vvp/values.yaml\"}
      drift: keep
    - name: maintain-1
      for: SELECT name, resource FROM service_rows WHERE NOT deleting
      patch: \"ingressUpdate.yaml\"
      force: true
";
        assert_eq!(converted[PACKAGE_FILE], expected);
        let package =
            load_files(&files(SAMPLE)).unwrap_or_else(|found| panic!("{}", render(&found)));
        assert_eq!(package.name(), "vvp");
        assert_eq!(
            package.rule_names().collect::<Vec<_>>(),
            ["deploy-1", "maintain-1"]
        );
    }

    #[test]
    fn every_mistake_is_told_where_it_is() {
        let broken = "\
default:
  def: cdr.yaml
  deploi: []
  deploy:
  - cmd: helmm
  - chart: x
  - cmd: kube-apply
  maintain:
  - action: []
  - watch: {category: ResourceDidDelete, kind: Pod, apiVersion: v1}
  - watch: {category: Sometimes, kind: Pod}
    action:
    - {cmd: kube-patch, file: nothing.yaml, mode: x}
";
        let found = render(&convert(&files(broken)).unwrap_err());
        for expected in [
            "controller.yaml:2:8: def: there is no file `cdr.yaml`",
            "controller.yaml:3:3: unknown keyword `deploi`",
            "controller.yaml:5:10: deploy-1: there is no cmd `helmm`",
            "controller.yaml:6:5: deploy-2 needs `cmd`",
            "controller.yaml:7:5: deploy-3 needs `file`",
            "controller.yaml:9:5: an entry of maintain needs `watch`",
            "there is nothing to do at ResourceDidDelete",
            "watch: category is not known",
            "watch needs `kind` and `apiVersion`",
        ] {
            assert!(found.contains(expected), "{expected}\n--\n{found}");
        }
    }

    #[test]
    fn one_folder_is_one_controller() {
        let mut two = files(SAMPLE);
        two.insert("other.yaml".to_owned(), SAMPLE.to_owned());
        let found = render(&convert(&two).unwrap_err());
        assert!(
            found.contains("other.yaml: is a controller too, beside controller.yaml"),
            "{found}"
        );
        let found = render(&convert(&files(&format!("{SAMPLE}---\n{SAMPLE}"))).unwrap_err());
        assert!(found.contains("2 documents in one file"), "{found}");
    }

    #[test]
    fn mistakes_behind_the_conversion_name_where_to_look() {
        let mut files = files(SAMPLE);
        files.remove("vvp/vvp/Chart.yaml");
        let found = render(&load_files(&files).unwrap_err());
        assert!(found.contains("there is no chart `vvp/vvp`"), "{found}");
        assert!(found.contains("converted from controller.yaml"), "{found}");
    }

    #[test]
    fn what_is_not_in_this_form_stays() {
        for (name, text) in [
            ("a.yaml", "kind: X\nspec: {def: 1}\n"),
            ("a.yaml", "- def\n"),
            ("sub/a.yaml", SAMPLE),
            ("a.yaml", "not: [yaml"),
        ] {
            let files: Files = [(name.to_owned(), text.to_owned())].into();
            assert_eq!(classic_file(&files), None, "{name} {text}");
        }
    }

    #[test]
    fn members_are_the_first_words() {
        let found = members_of(
            "resource",
            "{{ resource.spec.x }} {{ my_resource.no }} {{ a.resource.no }} {{ resource.status.y }} resource",
        );
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["spec", "status"]);
    }
}
