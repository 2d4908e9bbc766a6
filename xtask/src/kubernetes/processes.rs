//! Starts the cluster's processes in sessions of their own and finds them again. A process is known by its id together with its start
//! time, so an id that the kernel gave to somebody else is never signalled.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{place::Place, run};

/// How often a condition is looked at: often enough not to be noticed, rarely enough for a `kubectl` per look.
const LOOK: Duration = Duration::from_millis(200);
/// A process that was asked to end and has not by then is killed. etcd and the API server need about a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Enough lines to hold the message before a Go program's stack trace ends.
const LINES: usize = 15;

/// Starts a process unless it runs already; says whether it did.
pub(crate) fn start(
    place: &Place,
    name: &str,
    program: &Path,
    arguments: &[String],
) -> Result<bool, String> {
    if alive(place, name) {
        return Ok(false);
    }
    let log = place.log(name);
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| format!("open {}: {error}", log.display()))?;
    let errors = file
        .try_clone()
        .map_err(|error| format!("open {}: {error}", log.display()))?;
    // A session of its own: Ctrl-C at the terminal does not reach it. setsid replaces itself by the program, so the id stays.
    let child = Command::new("setsid")
        .arg(program)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("start {name}: {error}"))?;
    let id = child.id();
    let started = stat(id).map_or_else(String::new, |stat| stat.started);
    place.write(&format!("run/{name}.pid"), &format!("{id} {started}\n"))?;
    Ok(true)
}

/// Waits until `condition` holds, for at most `bound`; gives up at once when the process has ended.
pub(crate) fn wait(
    place: &Place,
    name: &str,
    bound: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let Err(reason) = condition() else {
            return Ok(());
        };
        if !alive(place, name) {
            return Err(format!("{name} has ended{}", tail(&place.log(name))));
        }
        if begun.elapsed() > bound {
            return Err(format!(
                "{name}: no {what} within {} s: {reason}{}",
                bound.as_secs(),
                tail(&place.log(name))
            ));
        }
        thread::sleep(LOOK);
    }
}

/// Whether the process that was started under this name still runs.
pub(crate) fn alive(place: &Place, name: &str) -> bool {
    id(place, name).is_some()
}

/// The id of the running process of this name.
pub(crate) fn id(place: &Place, name: &str) -> Option<u32> {
    let text = fs::read_to_string(place.state.join(format!("run/{name}.pid"))).ok()?;
    let (id, started) = text.trim().split_once(' ')?;
    let id = id.parse().ok()?;
    let stat = stat(id)?;
    (stat.started == started && stat.state != "Z").then_some(id)
}

/// Ends a process and waits until it is gone.
pub(crate) fn stop(place: &Place, name: &str) -> Result<(), String> {
    if let Some(id) = id(place, name) {
        signal("TERM", &[id])?;
        if !gone(&[id], PATIENCE) {
            signal("KILL", &[id])?;
            if !gone(&[id], PATIENCE) {
                return Err(format!("{name} (process {id}) does not end"));
            }
        }
    }
    Ok(())
}

/// Kills processes by id and waits until they are gone.
pub(crate) fn kill(ids: &[u32]) -> Result<(), String> {
    if ids.is_empty() {
        return Ok(());
    }
    signal("KILL", ids)?;
    if gone(ids, PATIENCE) {
        Ok(())
    } else {
        Err(format!("processes {ids:?} do not end"))
    }
}

/// Ids of processes whose arguments satisfy `ours`.
pub(crate) fn by_arguments(ours: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let arguments: Vec<String> = line
                .split(|byte| *byte == 0)
                .filter(|word| !word.is_empty())
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            ours(&arguments).then_some(id)
        })
        .collect()
}

/// The log's path and last lines, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!("\n--- {} ---\n{}", log.display(), last.join("\n"))
}

fn signal(name: &str, ids: &[u32]) -> Result<(), String> {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    // A process may end between the look and the signal; whether it is gone is what is checked.
    run(Command::new("sh").args(["-c", &format!("kill -{name} {} || true", ids.join(" "))]))
        .map(|_| ())
}

fn gone(ids: &[u32], bound: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if ids.iter().all(|id| ended(*id)) {
            return true;
        }
        if begun.elapsed() > bound {
            return false;
        }
        thread::sleep(LOOK / 4);
    }
}

/// Our own children stay as zombies until we end; they hold nothing. A process whose first thread is a zombie still holds its
/// ports while another thread is on its way out.
fn ended(id: u32) -> bool {
    stat(id).is_none_or(|stat| {
        stat.state == "Z"
            && fs::read_dir(format!("/proc/{id}/task")).map_or(true, |threads| threads.count() <= 1)
    })
}

struct Stat {
    state: String,
    started: String,
}

fn stat(id: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// The name in parentheses may itself contain spaces and parentheses; the fields begin after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Some(Stat {
        state: (*fields.first()?).to_owned(),
        started: (*fields.get(19)?).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat =
            parse_stat("7 (a) (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9").unwrap();
        assert_eq!((stat.state.as_str(), stat.started.as_str()), ("S", "4711"));
    }

    #[test]
    fn this_process_is_found_by_its_arguments_and_is_not_gone() {
        let own = std::process::id();
        let first = std::env::args().next().unwrap();
        assert!(by_arguments(|arguments| arguments.first() == Some(&first)).contains(&own));
        assert!(!gone(&[own], Duration::ZERO));
        let mut child = Command::new("true").spawn().unwrap();
        assert!(gone(&[child.id()], PATIENCE), "a zombie holds nothing");
        child.wait().unwrap();
    }
}
