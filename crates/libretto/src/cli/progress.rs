//! What `libretto up` is doing, as steps with times. Rendering is a pure function of the state; [`Display`] shows it.
//!
//! On a terminal the steps are redrawn in place; elsewhere each one is a line when it ends.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use anstyle::AnsiColor;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) title: String,
    /// What it is at now, or what came of it.
    pub(crate) detail: String,
    pub(crate) state: StepState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepState {
    Waiting,
    /// Since so long after the start.
    Running {
        since: Duration,
    },
    Done {
        took: Duration,
    },
    Failed {
        took: Duration,
    },
}

/// All steps, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) steps: Vec<Step>,
}

impl Progress {
    pub(crate) fn new(titles: &[&str]) -> Self {
        Self {
            steps: titles
                .iter()
                .map(|&title| Step {
                    title: title.to_owned(),
                    detail: String::new(),
                    state: StepState::Waiting,
                })
                .collect(),
        }
    }

    pub(crate) fn begin(&mut self, index: usize, now: Duration) {
        self.steps[index].state = StepState::Running { since: now };
    }

    pub(crate) fn detail(&mut self, index: usize, detail: impl Into<String>) {
        self.steps[index].detail = detail.into();
    }

    pub(crate) fn end(&mut self, index: usize, now: Duration, detail: impl Into<String>) {
        let took = self.running_for(index, now);
        self.steps[index].state = StepState::Done { took };
        self.detail(index, detail);
    }

    pub(crate) fn fail(&mut self, index: usize, now: Duration) {
        let took = self.running_for(index, now);
        self.steps[index].state = StepState::Failed { took };
    }

    fn running_for(&self, index: usize, now: Duration) -> Duration {
        match self.steps[index].state {
            StepState::Running { since } => now.saturating_sub(since),
            _ => Duration::ZERO,
        }
    }
}

const FRAMES: [char; 4] = ['⠋', '⠙', '⠸', '⠴'];

/// The lines to show `now` after the start, at most `width` columns each.
pub(crate) fn render(progress: &Progress, now: Duration, width: usize) -> Vec<String> {
    progress
        .steps
        .iter()
        .map(|step| line(step, now, width))
        .collect()
}

fn line(step: &Step, now: Duration, width: usize) -> String {
    let (mark, colour, time) = match step.state {
        StepState::Waiting => ('·', AnsiColor::BrightBlack, None),
        StepState::Running { since } => {
            let frame = usize::try_from(now.as_millis() / 100).unwrap_or(0) % FRAMES.len();
            (
                FRAMES[frame],
                AnsiColor::Cyan,
                Some(now.saturating_sub(since)),
            )
        }
        StepState::Done { took } => ('✓', AnsiColor::Green, Some(took)),
        StepState::Failed { took } => ('✗', AnsiColor::Red, Some(took)),
    };
    let time = time.map_or_else(String::new, seconds);
    // Mark, two blanks, title to column 34, time to column 42, detail.
    let title: String = format!("{:<32}{time:>7}", step.title);
    let room = width.saturating_sub(title.chars().count() + 5);
    let detail: String = step.detail.replace('\n', " ");
    let detail = if detail.chars().count() > room {
        let mut cut: String = detail.chars().take(room.saturating_sub(1)).collect();
        cut.push('…');
        cut
    } else {
        detail
    };
    let (on, dim) = (colour.on_default(), AnsiColor::BrightBlack.on_default());
    let text = format!("{on}{mark}{on:#} {title}");
    if detail.is_empty() {
        text.trim_end().to_owned()
    } else {
        format!("{text}  {dim}{detail}{dim:#}")
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Shows progress on standard error.
#[derive(Debug)]
pub(crate) struct Display {
    terminal: bool,
    /// Lines drawn last time, to be drawn over.
    drawn: usize,
    /// Steps whose end was printed, where nothing can be redrawn.
    printed: Vec<bool>,
}

impl Display {
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            drawn: 0,
            printed: Vec::new(),
        }
    }

    pub(crate) fn show(&mut self, progress: &Progress, now: Duration) {
        let text = if self.terminal {
            self.redraw(progress, now)
        } else {
            self.append(progress, now)
        };
        // A progress display that cannot be shown must not stop what it shows.
        let mut out = anstream::stderr();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    fn redraw(&mut self, progress: &Progress, now: Duration) -> String {
        let width = rustix::termios::tcgetwinsize(std::io::stderr())
            .map_or(80, |size| usize::from(size.ws_col))
            .max(40);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}A", self.drawn));
        }
        let lines = render(progress, now, width);
        self.drawn = lines.len();
        for line in lines {
            text.push_str("\r\u{1b}[2K");
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    fn append(&mut self, progress: &Progress, now: Duration) -> String {
        self.printed.resize(progress.steps.len(), false);
        let mut text = String::new();
        for (step, printed) in progress.steps.iter().zip(&mut self.printed) {
            let ended = matches!(
                step.state,
                StepState::Done { .. } | StepState::Failed { .. }
            );
            if ended && !*printed {
                *printed = true;
                // Wide enough for any detail: there is no screen to fit.
                text.push_str(&line(step, now, 1000));
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample() -> Progress {
        let mut progress =
            Progress::new(&["start the cluster", "start the pods", "become healthy"]);
        progress.begin(0, ms(0));
        progress.end(0, ms(340), "https://127.0.0.1:7443");
        progress.begin(1, ms(340));
        progress.detail(1, "2 of 6 ready; redis-cluster-test-1 ContainerCreating");
        progress
    }

    fn plain(lines: &[String]) -> Vec<String> {
        lines
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect()
    }

    #[test]
    fn steps_show_how_they_stand() {
        assert_eq!(
            plain(&render(&sample(), ms(1540), 100)),
            [
                "✓ start the cluster                  0.3s  https://127.0.0.1:7443",
                "⠴ start the pods                     1.2s  2 of 6 ready; redis-cluster-test-1 ContainerCreating",
                "· become healthy",
            ]
        );
    }

    #[test]
    fn lines_fit_the_terminal() {
        for width in [44, 60, 80] {
            for line in plain(&render(&sample(), ms(900), width)) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn without_a_terminal_each_step_is_told_once_when_it_ends() {
        let mut display = Display {
            terminal: false,
            drawn: 0,
            printed: Vec::new(),
        };
        let mut progress = sample();
        assert_eq!(display.append(&progress, ms(400)).lines().count(), 1);
        assert_eq!(display.append(&progress, ms(500)), "");
        progress.fail(1, ms(600));
        let told = display.append(&progress, ms(600));
        assert!(
            told.contains('✗') && told.contains("redis-cluster-test-1"),
            "{told}"
        );
    }
}
