//! The definitions of the built-in kinds, unpacked once from the embedded table (see `data/README.md`).
//!
//! Structure and descriptions are apart: the API server always needs the first (23 KB packed), only `kubectl explain` the second.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    sync::OnceLock,
};

use serde_json::Value;

use super::node::Node;

static STRUCTURE: &[u8] = include_bytes!("../../data/kubernetes-1.37.structure.json.z");
/// Definition and its fields that Go holds by value; the published definitions lose the difference.
static STRUCTS: &str = include_str!("../../data/kubernetes-1.35.structs.txt");
static DESCRIPTIONS: &[u8] = include_bytes!("../../data/kubernetes-1.37.descriptions.json.z");

/// Definition name → field name → text; the empty field is the definition itself.
pub(crate) type Descriptions = HashMap<String, BTreeMap<String, String>>;

/// All built-in definitions.
#[derive(Debug)]
pub(crate) struct Definitions {
    names: HashMap<String, u32>,
    nodes: Vec<Node>,
    /// As OpenAPI JSON, in the order of `nodes`, with the name.
    sources: Vec<(String, Value)>,
    /// (group, version, kind) → index.
    kinds: HashMap<(String, String, String), u32>,
}

impl Definitions {
    pub(crate) fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    pub(crate) fn index(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    pub(crate) fn name(&self, index: u32) -> &str {
        &self.sources[index as usize].0
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.index(name).map(|index| self.node(index))
    }

    /// The definition as the OpenAPI JSON of the table: `$ref` is a bare definition name.
    pub(crate) fn source(&self, name: &str) -> Option<&Value> {
        self.index(name)
            .map(|index| &self.sources[index as usize].1)
    }

    /// Name of the definition of a kind.
    pub(crate) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        let key = (group.to_owned(), version.to_owned(), kind.to_owned());
        let index = *self.kinds.get(&key)?;
        Some(&self.sources[index as usize].0)
    }
}

/// The one table of the process.
pub(crate) fn table() -> &'static Definitions {
    static TABLE: OnceLock<Definitions> = OnceLock::new();
    TABLE.get_or_init(load)
}

/// The descriptions, unpacked when somebody first asks for an explanation.
pub(crate) fn descriptions() -> &'static Descriptions {
    static TEXTS: OnceLock<Descriptions> = OnceLock::new();
    TEXTS.get_or_init(|| {
        serde_json::from_slice(&unpack(DESCRIPTIONS))
            .expect("the embedded descriptions are JSON, a test reads them")
    })
}

/// The embedded files, for fingerprints of what is derived from them.
pub(crate) fn packed() -> [&'static [u8]; 2] {
    [STRUCTURE, DESCRIPTIONS]
}

fn load() -> Definitions {
    let parsed: BTreeMap<String, Value> = serde_json::from_slice(&unpack(STRUCTURE))
        .expect("the embedded table is JSON, a test reads it");
    let sources: Vec<(String, Value)> = parsed.into_iter().collect();
    let names: HashMap<String, u32> = sources
        .iter()
        .zip(0_u32..)
        .map(|((name, _), index)| (name.clone(), index))
        .collect();
    let reference = |name: &str| names.get(name).copied();
    let mut nodes: Vec<Node> = sources
        .iter()
        .map(|(_, schema)| Node::from_openapi(schema, &reference))
        .collect();
    for (name, fields) in STRUCTS.lines().filter_map(|line| line.split_once(": ")) {
        let Some(index) = reference(name) else {
            continue;
        };
        for field in fields.split(' ') {
            if let Some(node) = nodes[index as usize].properties.get_mut(field) {
                node.by_value = true;
            }
        }
    }
    let mut kinds = HashMap::new();
    for ((_, schema), index) in sources.iter().zip(0_u32..) {
        for kind in schema["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = |key: &str| kind[key].as_str().unwrap_or_default().to_owned();
            kinds.insert((text("group"), text("version"), text("kind")), index);
        }
    }
    Definitions {
        names,
        nodes,
        sources,
        kinds,
    }
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(packed)
        .read_to_end(&mut text)
        .expect("the embedded table was packed by our script, a test unpacks it");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::schema::node::{Kind, ListType, Strategy};

    #[test]
    fn the_table_is_complete() {
        let table = table();
        assert_eq!(
            table.kind("apps", "v1", "StatefulSet"),
            Some("io.k8s.api.apps.v1.StatefulSet")
        );
        assert_eq!(table.kind("apps", "v1", "Nonsense"), None);
        // Every reference of the table resolves.
        fn check(node: &Value, table: &Definitions) {
            if let Some(name) = node.get("$ref").and_then(Value::as_str) {
                assert!(table.index(name).is_some(), "{name}");
            }
            for child in node
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                check(child.1, table);
            }
            for key in ["items", "additionalProperties"] {
                if let Some(child) = node.get(key) {
                    check(child, table);
                }
            }
        }
        for (_, source) in &table.sources {
            check(source, table);
        }
        assert!(descriptions()["io.k8s.api.core.v1.Pod"][""].starts_with("Pod is a collection"));
    }

    #[test]
    fn nodes_carry_both_kinds_of_list_key() {
        let container = table().get("io.k8s.api.core.v1.Container").unwrap();
        let ports = &container.properties["ports"];
        assert_eq!(
            ports.list,
            ListType::Map(vec!["containerPort".into(), "protocol".into()])
        );
        assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
        assert_eq!(ports.strategy, Strategy::Merge);
        let port = ports.items.as_ref().unwrap().target();
        assert_eq!(port.properties["protocol"].default, Some("TCP".into()));
        let service_port = table().get("io.k8s.api.core.v1.ServicePort").unwrap();
        assert_eq!(
            service_port.properties["targetPort"].target().kind,
            Kind::IntOrString
        );
        let selector = &table()
            .get("io.k8s.api.core.v1.ServiceSpec")
            .unwrap()
            .properties["selector"];
        assert!(selector.is_atomic_map());
    }
}
