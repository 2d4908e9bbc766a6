//! Container logs: files in the format of the container runtime interface, bounded, readable while they grow.
//!
//! A line is `2026-11-21T08:00:00.000000000Z stdout F text`; `P` instead of `F` marks a piece of a line that goes on. One file per
//! start of a container; at `ROTATE_AT` it becomes `<name>.1`, so a container never keeps more than twice that.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::{broadcast, watch},
};

use super::{LogOptions, LogStream};

/// As a kubelet's default `containerLogMaxSize`.
const ROTATE_AT: u64 = 10 << 20;
/// Longer lines are stored in pieces, as container runtimes do.
const LONGEST_PIECE: usize = 16 << 10;
/// Pieces an attached client may lag behind before it loses some.
const ATTACH_BUFFER: usize = 256;

/// Which standard stream a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one start of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<Writer>,
    progress: watch::Sender<Progress>,
    output: broadcast::Sender<(Stream, Bytes)>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    length: u64,
}

/// What a follower waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// How often the file was replaced.
    rotations: u32,
    length: u64,
    ended: bool,
}

impl Log {
    pub fn create(path: &Path) -> io::Result<Arc<Self>> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::create(path)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file: Mutex::new(Writer { file, length: 0 }),
            progress: watch::Sender::new(Progress::default()),
            output: broadcast::Sender::new(ATTACH_BUFFER),
        }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Output from now on, for `attach`.
    pub fn subscribe(&self) -> broadcast::Receiver<(Stream, Bytes)> {
        self.output.subscribe()
    }

    /// Copies a stream of the container into the log until it ends.
    pub async fn pump(self: Arc<Self>, from: Stream, mut reader: impl AsyncRead + Unpin) {
        let mut pending = Vec::new();
        let mut buffer = vec![0; LONGEST_PIECE];
        loop {
            let count = match reader.read(&mut buffer).await {
                // A terminal's reading end fails with EIO when the last process of the other side is gone.
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            // Nobody attached is the normal case.
            let _ = self
                .output
                .send((from, Bytes::copy_from_slice(&buffer[..count])));
            pending.extend_from_slice(&buffer[..count]);
            if let Err(error) = self.store(from, &mut pending, false) {
                tracing::warn!(log = %self.path.display(), %error, "container log not written");
            }
        }
        if let Err(error) = self.store(from, &mut pending, true) {
            tracing::warn!(log = %self.path.display(), %error, "container log not written");
        }
    }

    /// The container has ended and all its output is stored.
    pub fn end(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }

    fn store(&self, from: Stream, pending: &mut Vec<u8>, last: bool) -> io::Result<()> {
        let now = jiff::Timestamp::now();
        let mut text = Vec::with_capacity(pending.len() + 64);
        let mut start = 0;
        loop {
            let rest = &pending[start..];
            let window = &rest[..rest.len().min(LONGEST_PIECE)];
            let (piece, used, tag) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&window[..end], end + 1, 'F'),
                None if window.len() == LONGEST_PIECE || (last && !window.is_empty()) => {
                    (window, window.len(), 'P')
                }
                None => break,
            };
            write!(text, "{now:.9} {} {tag} ", from.name())?;
            text.extend_from_slice(piece);
            text.push(b'\n');
            start += used;
        }
        pending.drain(..start);
        if text.is_empty() {
            return Ok(());
        }
        let mut writer = self.file.lock();
        let mut rotated = 0;
        if writer.length > 0 && writer.length + text.len() as u64 > ROTATE_AT {
            std::fs::rename(&self.path, rotated_name(&self.path))?;
            *writer = Writer {
                file: File::create(&self.path)?,
                length: 0,
            };
            rotated = 1;
        }
        writer.file.write_all(&text)?;
        writer.length += text.len() as u64;
        let length = writer.length;
        // Under the lock, so that followers see rotations and lengths in order.
        self.progress.send_modify(|progress| {
            progress.rotations += rotated;
            progress.length = length;
        });
        Ok(())
    }
}

fn rotated_name(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// One stored piece.
struct Piece<'a> {
    time: &'a str,
    whole: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Piece<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let whole = parts.next()? == b"F";
    Some(Piece {
        time,
        whole,
        text: parts.next()?,
    })
}

/// Turns stored pieces into what the user sees.
struct Printer {
    timestamps: bool,
    since: Option<jiff::Timestamp>,
    /// Bytes that may still be sent.
    budget: usize,
    /// In the middle of a line whose earlier pieces were printed.
    continuing: bool,
}

impl Printer {
    fn new(options: &LogOptions) -> Self {
        let since = options.since_seconds.and_then(|seconds| {
            jiff::Timestamp::now()
                .checked_sub(jiff::SignedDuration::from_secs(seconds))
                .ok()
        });
        Self {
            timestamps: options.timestamps,
            since,
            budget: options.limit_bytes.unwrap_or(usize::MAX),
            continuing: false,
        }
    }

    fn wanted(&self, piece: &Piece<'_>) -> bool {
        self.since.is_none_or(|since| {
            piece
                .time
                .parse::<jiff::Timestamp>()
                .is_ok_and(|time| time >= since)
        })
    }

    fn print(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(piece) = parse(line) else {
            return;
        };
        if !self.wanted(&piece) {
            return;
        }
        let start = out.len();
        if self.timestamps && !self.continuing {
            out.extend_from_slice(piece.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(piece.text);
        if piece.whole {
            out.push(b'\n');
        }
        self.continuing = !piece.whole;
        let added = (out.len() - start).min(self.budget);
        out.truncate(start + added);
        self.budget -= added;
    }
}

/// Lines of the last `count` whole lines of the two files together.
fn tail(lines: &[Vec<u8>], count: usize) -> usize {
    let mut left = count;
    for (index, line) in lines.iter().enumerate().rev() {
        if parse(line).is_some_and(|piece| piece.whole) || index + 1 == lines.len() {
            if left == 0 {
                return index + 1;
            }
            left -= 1;
        }
    }
    0
}

/// Reads a log. `live` is the log when its container may still write to it.
pub fn read(path: &Path, live: Option<&Arc<Log>>, options: &LogOptions) -> io::Result<LogStream> {
    // Noted before the file is opened: a rotation in between is then seen as one.
    let subscription = live.map(|log| {
        let changes = log.progress.subscribe();
        let rotations = changes.borrow().rotations;
        (changes, rotations)
    });
    let mut lines = Vec::new();
    if let Ok(old) = File::open(rotated_name(path)) {
        collect(&mut BufReader::new(old), &mut lines)?;
    }
    let mut reader = BufReader::new(File::open(path)?);
    let unfinished = collect(&mut reader, &mut lines)?;
    let first = options.tail_lines.map_or(0, |count| tail(&lines, count));
    let mut printer = Printer::new(options);
    let mut out = Vec::new();
    for line in &lines[first..] {
        printer.print(line, &mut out);
    }
    let follow = match subscription {
        Some((changes, rotations)) if options.follow && printer.budget > 0 => Some(Follower {
            path: path.to_owned(),
            rotations,
            changes,
            reader,
            partial: unfinished,
            printer,
        }),
        _ => None,
    };
    let first = (!out.is_empty()).then(|| Ok(Bytes::from(out)));
    let rest = stream::unfold(follow, |follower| async {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Box::pin(futures::StreamExt::chain(
        stream::iter(first),
        rest,
    )))
}

/// Whole stored lines into `lines`; an incomplete last one is returned.
fn collect(reader: &mut BufReader<File>, lines: &mut Vec<Vec<u8>>) -> io::Result<Vec<u8>> {
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(line);
        }
        line.pop();
        lines.push(line);
    }
}

struct Follower {
    path: PathBuf,
    changes: watch::Receiver<Progress>,
    rotations: u32,
    reader: BufReader<File>,
    /// The beginning of a stored line whose end was not there yet.
    partial: Vec<u8>,
    printer: Printer,
}

impl Follower {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Before reading, so that a change during the reading wakes us again.
            let progress = *self.changes.borrow_and_update();
            let mut out = Vec::new();
            self.drain(&mut out)?;
            if progress.rotations != self.rotations {
                self.rotations = progress.rotations;
                self.reader = BufReader::new(File::open(&self.path)?);
                self.drain(&mut out)?;
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
            if progress.ended || self.printer.budget == 0 {
                return Ok(None);
            }
            if self.changes.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    fn drain(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut text = std::mem::take(&mut self.partial);
        self.reader.read_to_end(&mut text)?;
        let mut rest = text.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.printer.print(&rest[..end], out);
            rest = &rest[end + 1..];
        }
        self.partial = rest.to_vec();
        Ok(())
    }
}

/// The end of a log as plain text, for `terminationMessagePolicy: FallbackToLogsOnError`.
pub fn last_lines(path: &Path, lines: usize, bytes: usize) -> String {
    let mut stored = Vec::new();
    let Ok(file) = File::open(path) else {
        return String::new();
    };
    if collect(&mut BufReader::new(file), &mut stored).is_err() {
        return String::new();
    }
    let mut printer = Printer::new(&LogOptions::default());
    let mut out = Vec::new();
    for line in &stored[tail(&stored, lines)..] {
        printer.print(line, &mut out);
    }
    let start = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt as _;

    use super::*;

    async fn log_with(text: &str) -> (tempfile::TempDir, Arc<Log>) {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(&directory.path().join("c/0.log")).unwrap();
        log.clone().pump(Stream::Stdout, text.as_bytes()).await;
        (directory, log)
    }

    async fn printed(log: &Log, options: &LogOptions) -> String {
        let chunks = read(log.path(), None, options)
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
            .await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn options() {
        let (_directory, log) = log_with("one\ntwo\nthree").await;
        let with = |change: fn(&mut LogOptions)| {
            let mut options = LogOptions::default();
            change(&mut options);
            options
        };
        for (options, expected) in [
            (with(|_| ()), "one\ntwo\nthree"),
            (with(|o| o.tail_lines = Some(0)), ""),
            (with(|o| o.tail_lines = Some(1)), "three"),
            (with(|o| o.tail_lines = Some(2)), "two\nthree"),
            (with(|o| o.tail_lines = Some(9)), "one\ntwo\nthree"),
            (with(|o| o.limit_bytes = Some(5)), "one\nt"),
            (with(|o| o.since_seconds = Some(3600)), "one\ntwo\nthree"),
            (with(|o| o.since_seconds = Some(-3600)), ""),
        ] {
            assert_eq!(printed(&log, &options).await, expected, "{options:?}");
        }
        let text = printed(&log, &with(|o| o.timestamps = true)).await;
        let first = text.lines().next().unwrap();
        let (time, rest) = first.split_once(' ').unwrap();
        assert!(
            time.parse::<jiff::Timestamp>().is_ok() && rest == "one",
            "{first}"
        );
    }

    #[tokio::test]
    async fn long_lines_are_stored_in_pieces_and_shown_whole() {
        let line = "x".repeat(LONGEST_PIECE * 2 + 5);
        let (_directory, log) = log_with(&format!("{line}\nend\n")).await;
        assert_eq!(
            printed(&log, &LogOptions::default()).await,
            format!("{line}\nend\n")
        );
        assert_eq!(
            std::fs::read_to_string(log.path()).unwrap().lines().count(),
            4
        );
    }

    #[tokio::test]
    async fn a_follower_sees_what_comes_and_ends_with_the_container() {
        let (_directory, log) = log_with("before\n").await;
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut stream = read(log.path(), Some(&log), &options).unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "before\n");
        let waiting = tokio::spawn(async move {
            let chunks = stream.map(Result::unwrap).collect::<Vec<_>>().await;
            String::from_utf8(chunks.concat()).unwrap()
        });
        log.clone().pump(Stream::Stderr, &b"after\nlast"[..]).await;
        log.end();
        assert_eq!(waiting.await.unwrap(), "after\nlast");
    }

    #[tokio::test]
    async fn a_log_is_bounded_and_following_survives_rotation() {
        let (_directory, log) = log_with("first\n").await;
        let options = LogOptions {
            follow: true,
            tail_lines: Some(0),
            ..LogOptions::default()
        };
        let stream = read(log.path(), Some(&log), &options).unwrap();
        let waiting = tokio::spawn(async move {
            stream
                .fold(0, |sum, chunk| async move { sum + chunk.unwrap().len() })
                .await
        });
        let line = format!("{}\n", "y".repeat(1023));
        let text = line.repeat(11 * 1024);
        log.clone().pump(Stream::Stdout, text.as_bytes()).await;
        log.end();
        assert_eq!(waiting.await.unwrap(), text.len());
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(size(log.path()) < ROTATE_AT);
        assert!(size(&rotated_name(log.path())) <= ROTATE_AT);
        assert_eq!(
            last_lines(log.path(), 2, 10),
            format!("{}\n", "y".repeat(9))
        );
    }
}
