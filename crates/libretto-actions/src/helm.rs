//! Renders charts with the official Helm binary, as a bounded subprocess.
//!
//! Helm gets a folder of its own, no environment and no cluster: `lookup` finds nothing and plugins are not there. Each rendering is
//! made twice; a chart that gives something else the second time (random passwords, generated certificates) would change its objects
//! at every restart, and is refused.

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use libretto_api::chart::{Chart, Rendering};
use serde_json::Value;

/// Longest time for one run. Large charts take a second on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// CPU seconds; Helm runs several threads.
const CPU_SECONDS: u64 = 30;
/// Heap of the process, unless the container has less. Rendering the largest public charts takes 200 MB.
const HEAP: u64 = 1 << 30;
/// Text that a chart may give: far above what one inventory could list.
const OUTPUT: u64 = 8 << 20;
/// Of Helm's complaint, what fits into a condition.
const COMPLAINT: usize = 600;

/// Helm is not there, or there is no room for it.
#[derive(Debug, thiserror::Error)]
pub enum HelmError {
    #[error(
        "there is no program `{0}`: install Helm 3.14 or later (https://helm.sh), or say where it is with --helm"
    )]
    Missing(String),
    #[error("{0} is not Helm 3 or 4: `{0} version --short` gives {1:?}")]
    Stranger(String, String),
    #[error("a folder for charts cannot be made: {0}")]
    Scratch(std::io::Error),
}

/// The Helm binary, and the charts it was given.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    kubernetes: Option<String>,
    heap: u64,
    scratch: tempfile::TempDir,
    /// Folders of charts by digest.
    charts: Mutex<HashMap<String, PathBuf>>,
}

impl Helm {
    /// Uses `program`, a path or a name to look for in `PATH`. `kubernetes` is the version that charts see, such as `1.35.0`.
    pub fn new(program: &Path, kubernetes: Option<String>) -> Result<Self, HelmError> {
        let found = if program.components().count() > 1 {
            Some(program.to_owned())
        } else {
            std::env::var_os("PATH").and_then(|path| {
                std::env::split_paths(&path)
                    .map(|folder| folder.join(program))
                    .find(|file| file.is_file())
            })
        };
        let program = found
            .filter(|file| file.is_file())
            // The subprocess runs in another folder.
            .and_then(|file| file.canonicalize().ok())
            .ok_or_else(|| HelmError::Missing(program.display().to_string()))?;
        // Another program would give nothing, and what nothing gives is deleted.
        let said = Command::new(&program)
            .args(["version", "--short"])
            .stdin(Stdio::null())
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default();
        if !said.starts_with("v3.") && !said.starts_with("v4.") {
            return Err(HelmError::Stranger(program.display().to_string(), said));
        }
        let scratch = tempfile::Builder::new()
            .prefix("libretto-helm-")
            .tempdir()
            .map_err(HelmError::Scratch)?;
        Ok(Self {
            program,
            kubernetes,
            heap: heap(),
            scratch,
            charts: Mutex::default(),
        })
    }

    /// The chart's manifests, or why there are none. Takes tens of milliseconds to seconds: not for a thread that others wait for.
    pub fn render(&self, rendering: &Rendering) -> Result<Vec<Value>, String> {
        let name = &rendering.chart.name;
        let first = self.run(rendering)?;
        let second = self.run(rendering)?;
        if first != second {
            let place = first
                .lines()
                .zip(second.lines())
                .position(|(first, second)| first != second)
                .map_or_else(String::new, |line| place(&first, line));
            return Err(format!(
                "chart {name} gives something else each time{place}: it makes up a value; give it that value"
            ));
        }
        manifests(&first).map_err(|problem| format!("chart {name}: {problem}"))
    }

    fn run(&self, rendering: &Rendering) -> Result<String, String> {
        let chart = &rendering.chart;
        let failed = |problem: String| format!("chart {}: {problem}", chart.name);
        let folder = self
            .folder(chart)
            .map_err(|error| failed(format!("its files cannot be written: {error}")))?;
        let values = tempfile::Builder::new()
            .prefix("values-")
            .suffix(".json")
            .tempfile_in(self.scratch.path())
            .map_err(|error| failed(format!("its values cannot be written: {error}")))?;
        serde_json::to_writer(&values, &rendering.values)
            .map_err(|error| failed(format!("its values cannot be written: {error}")))?;
        let mut command = Command::new(&self.program);
        command
            .args(["template", &rendering.release])
            .arg(&folder)
            .args(["--namespace", &rendering.namespace, "--values"])
            .arg(values.path())
            .args(
                self.kubernetes
                    .iter()
                    .flat_map(|version| ["--kube-version", version]),
            )
            .env_clear()
            .env("HOME", self.scratch.path())
            .env("GOMEMLIMIT", (self.heap / 4 * 3).to_string())
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| failed(format!("Helm cannot be started: {error}")))?;
        bound(&child, self.heap);
        let output = collect(child.stdout.take(), OUTPUT);
        let complaint = collect(child.stderr.take(), 64 << 10);
        let ended = wait(&mut child);
        let output = output.join().unwrap_or_default();
        let complaint = complaint.join().unwrap_or_default();
        // Nobody reads the rest, and that ends Helm.
        if output.len() as u64 >= OUTPUT {
            return Err(failed(format!("it gives more than {OUTPUT} bytes")));
        }
        match ended {
            Some(status) if status.success() => {}
            Some(status) => {
                let said = complain(&String::from_utf8_lossy(&complaint), &folder, self.heap);
                return Err(failed(if said.is_empty() {
                    format!("Helm ended with {status}")
                } else {
                    said
                }));
            }
            None => {
                return Err(failed(format!(
                    "Helm did not end within {} s",
                    TIMEOUT.as_secs()
                )));
            }
        }
        String::from_utf8(output)
            .map_err(|_| failed("it gives something that is not text".to_owned()))
    }

    /// The chart as a folder, written once.
    fn folder(&self, chart: &Chart) -> std::io::Result<PathBuf> {
        let mut charts = self
            .charts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(folder) = charts.get(&chart.digest) {
            return Ok(folder.clone());
        }
        let folder = self.scratch.path().join(format!("chart-{}", charts.len()));
        for (path, text) in &chart.files {
            let mut file = folder.clone();
            for part in path.split('/') {
                // An unpacked archive is a folder like any other.
                file.push(part.strip_suffix(".tgz").unwrap_or(part));
            }
            std::fs::create_dir_all(file.parent().unwrap_or(&folder))?;
            std::fs::write(file, text)?;
        }
        charts.insert(chart.digest.clone(), folder.clone());
        Ok(folder)
    }
}

/// A kernel that runs out of a container's memory ends all of the container: Helm gets half of what there is.
fn heap() -> u64 {
    ["memory.max", "memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok())
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .map(|limit| limit / 2)
        .chain([HEAP])
        .min()
        .unwrap_or(HEAP)
}

/// What one process may use. Set from outside: between fork and exec only few calls are safe.
fn bound(child: &Child, heap: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return;
    };
    for (resource, most) in [(Resource::Data, heap), (Resource::Cpu, CPU_SECONDS)] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        // It may have ended already.
        if let Err(error) = prlimit(Some(pid), resource, limit) {
            tracing::debug!(%error, "limit of Helm not set");
        }
    }
}

/// Reads at most so many bytes, on a thread of its own so that neither pipe fills up.
fn collect(
    from: Option<impl std::io::Read + Send + 'static>,
    most: u64,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            // What cannot be read is missing, and Helm's exit code says why.
            let _ = from.take(most).read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for the end, or makes it.
fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// ` in Secret web at `password``: which document a line is in, and its key; its value may be a password.
fn place(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines[..line]
        .iter()
        .rposition(|line| line.starts_with("---"))
        .unwrap_or(0);
    let end = lines[line..]
        .iter()
        .position(|line| line.starts_with("---"))
        .map_or(lines.len(), |offset| line + offset);
    let first = |prefix: &str| {
        lines[start..end]
            .iter()
            .find_map(|line| line.strip_prefix(prefix))
            .unwrap_or_default()
            .trim()
    };
    let key = lines[line].split(':').next().unwrap_or_default().trim();
    format!(" in {} {} at `{key}`", first("kind:"), first("  name:"))
}

/// What Helm says in the end, without the folder only we know.
fn complain(said: &str, folder: &Path, heap: u64) -> String {
    // A program of Go that gets no memory tells where it was, at length.
    if [
        "out of memory",
        "cannot allocate memory",
        "fatal error: runtime",
    ]
    .iter()
    .any(|words| said.contains(words))
    {
        return format!("Helm needs more than {} MiB for it", heap >> 20);
    }
    let line = said
        .lines()
        .rev()
        .map(str::trim)
        // It offers a flag that nobody can set here.
        .find(|line| !line.is_empty() && !line.starts_with("Use --debug"))
        .unwrap_or_default()
        .trim_start_matches("Error: ")
        .replace(&format!("{}/", folder.display()), "");
    match line.char_indices().nth(COMPLAINT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The documents of Helm's output.
fn manifests(text: &str) -> Result<Vec<Value>, String> {
    // As Helm's own reader has it, which knows YAML 1.1: `defaultMode: 0644` is in every second chart.
    let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true };
    let documents = serde_saphyr::from_multiple_with_options::<Value>(text, options)
        .map_err(|error| format!("what it gives is not YAML: {}", error.without_snippet()))?;
    let mut manifests = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(ref map) if map.is_empty() => {}
            Value::Object(mut map) if map.get("kind").is_some_and(|kind| kind == "List") => {
                if let Some(Value::Array(items)) = map.remove("items") {
                    manifests.extend(items);
                }
            }
            Value::Object(_) => manifests.push(document),
            other => return Err(format!("it gives {other}, which is not an object")),
        }
    }
    Ok(manifests)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_named_without_its_value() {
        let text = "---\nkind: Service\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: web\ndata:\n  key: s3cret\n---\nkind: X\n";
        assert_eq!(place(text, 10), " in Secret web at `key`");
    }

    #[test]
    fn numbers_are_read_as_helm_writes_them() {
        let found = manifests(
            "---\n# Source: x\napiVersion: v1\nkind: A\nmode: 0644\nword: no\ntext: \"0644\"\nport: 80\nsize: 1e3\n---\n---\n{}\n",
        );
        assert_eq!(
            found,
            Ok(vec![
                json!({"apiVersion": "v1", "kind": "A", "mode": 420, "word": "no", "text": "0644", "port": 80, "size": 1000.0})
            ])
        );
    }

    #[test]
    fn lists_are_opened_and_texts_refused() {
        assert_eq!(
            manifests("kind: List\nitems: [{kind: A}, {kind: B}]"),
            Ok(vec![json!({"kind": "A"}), json!({"kind": "B"})])
        );
        assert_eq!(
            manifests("just text"),
            Err("it gives \"just text\", which is not an object".to_owned())
        );
    }

    #[test]
    fn a_chart_without_bounds_is_called_so() {
        let said = "runtime: out of memory: cannot allocate 3200253952-byte block\nfatal error: out of memory\n\ngoroutine 1:\nmain.main()\n\t/helm.go:1 +0x1\n";
        assert_eq!(
            complain(said, Path::new("/x"), HEAP),
            "Helm needs more than 1024 MiB for it"
        );
    }

    #[test]
    fn complaints_are_one_line_without_our_folder() {
        let said = "walk.go:74: found symbolic link\nError: execution error at (/tmp/x/chart-0/templates/a.yaml:3:4): a host is needed\n\nUse --debug flag to render out invalid YAML\n";
        assert_eq!(
            complain(said, Path::new("/tmp/x/chart-0"), HEAP),
            "execution error at (templates/a.yaml:3:4): a host is needed"
        );
    }
}
