//! Real packages with bytes changed at random: each loads or says what is wrong, and what loads can be evaluated.
//!
//! The seed is fixed, so what failed fails again. `fuzz/` does the same without end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::*;
use crate::read_dir;

/// Some seconds of a test run.
const ROUNDS: usize = 2_000;

/// xorshift64*: enough to choose places.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }
}

/// Pieces that mean something to one of the languages in a package.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "&a ",
    "*a",
    "[",
    "]",
    "{",
    "}",
    "- ",
    ": ",
    "\n",
    "  ",
    "'",
    "\"",
    "|",
    ">",
    "#",
    "--",
    "/*",
    "SELECT ",
    " FROM ",
    "WITH RECURSIVE ",
    ":size",
    "~",
    "!!",
    "?",
    "<<: ",
    "null",
    "1e999",
    "-9223372036854775808",
    "\u{0}",
    "\u{1}",
    "é",
    "\u{feff}",
    "for: ",
    "with: ",
    "after: [",
    "key: [",
    "apply: ",
    "patch: ",
    "undo: ",
    "$when",
];

fn changed(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let place = random.below(bytes.len());
        let length = random.below(40).min(bytes.len() - place);
        match random.below(5) {
            0 => bytes[place] = random.below(256) as u8,
            1 => drop(bytes.drain(place..place + length)),
            2 => {
                let part = bytes[place..place + length].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            3 => bytes.truncate(place.max(1)),
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(place..place, piece.bytes());
            }
        }
        if bytes.is_empty() {
            bytes.push(b' ');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn packages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all: Vec<PathBuf> = ["packages", "examples"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

#[test]
fn changed_packages_load_or_say_why_not() {
    let real: Vec<Files> = packages()
        .iter()
        .filter_map(|folder| read_dir(folder).ok())
        .collect();
    assert!(real.len() > 3);
    let mut random = Random(0x1f2e_3d4c_5b6a_7988);
    let mut loaded = 0;
    for round in 0..ROUNDS {
        let mut files = real[random.below(real.len())].clone();
        let texts: Vec<String> = files
            .keys()
            .filter(|name| name.ends_with(".yaml") && !name.starts_with("charts/"))
            .cloned()
            .collect();
        // Every other time where most is said.
        let name = match files.contains_key("package.yaml") && round % 2 == 0 {
            true => "package.yaml".to_owned(),
            false => texts[random.below(texts.len())].clone(),
        };
        let text = changed(&files[&name], &mut random);
        files.insert(name.clone(), text.clone());
        let result = catch_unwind(AssertUnwindSafe(|| match load_files(&files) {
            Ok(package) => {
                evaluate(package);
                true
            }
            Err(told) => {
                assert!(!told.is_empty());
                false
            }
        }));
        match result {
            Ok(whole) => loaded += usize::from(whole),
            Err(_) => panic!("round {round}, {name}:\n{text}"),
        }
    }
    assert!(loaded > 0, "none of them was whole");
}

fn evaluate(package: Compiled) {
    let package = Arc::new(package);
    let mut mirror = Mirror::new(ScopeMode::Any);
    mirror.declare(package.schema().clone());
    let gvk = package.gvk().clone();
    let instance = json!({
        "apiVersion": gvk.api_version(), "kind": gvk.kind, "metadata": {"name": "demo", "namespace": "ns", "uid": "uid"}, "spec": {},
    });
    mirror.ingest(&gvk, Change::Applied(&instance)).unwrap();
    let snapshot = mirror.snapshot(package.name(), "uid").unwrap().unwrap();
    Engine::new(package, Arc::new(NoCharts)).plan(&snapshot, &Ledger::default(), 0, 1);
}
