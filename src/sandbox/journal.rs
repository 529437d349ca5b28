//! The journal: one JSON line for each commit, appended by a thread of its own, read back and compacted at the start.
//!
//! An answer leaves only after the line of what it did was handed to the operating system, so a killed process loses
//! nothing that it answered. Deliberately absent: fsync for each line (a power cut may lose the last seconds of this
//! play money), and compaction while running.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::SandboxError;
use super::commit::Record;
use super::state::State;

/// The journal's file in its directory.
const FILE: &str = "sandbox.jsonl";
/// The new file while it is being compacted.
const COMPACTED: &str = "sandbox.jsonl.new";
/// How many lines may wait for the writer; beyond it requests wait before they begin.
const QUEUE: usize = 4096;
/// How many lines are written at once.
const BATCH: usize = 512;

/// What the writer is told.
#[derive(Debug)]
enum Entry {
    Append(Record, Option<oneshot::Sender<()>>),
    Close(oneshot::Sender<()>),
}

/// The sending end of the journal.
#[derive(Debug)]
pub(super) struct Journal {
    entries: mpsc::Sender<Entry>,
}

/// A place in the writer's queue: sending through it neither waits nor fails.
#[derive(Debug)]
pub(super) struct Place<'a>(mpsc::Permit<'a, Entry>);

/// The promise of a written line.
#[derive(Debug)]
pub(super) struct Written(oneshot::Receiver<()>);

/// The journal was closed, or its line could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox's journal is closed or cannot be written")]
pub(super) struct JournalClosed;

impl Journal {
    /// Reads the journal of `directory` into `state`, compacts it, and starts the writer. Blocks.
    pub fn open(directory: &Path, state: &mut State) -> Result<Self, SandboxError> {
        let path = directory.join(FILE);
        let failed = |source| SandboxError::Journal { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        replay(&path, state)?;
        compact(directory, state).map_err(failed)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
        let (entries, queue) = mpsc::channel(QUEUE);
        let writer = Writer { file, lines: Vec::new(), path: path.clone(), broken: false };
        thread::Builder::new().name("sandbox-journal".into()).spawn(|| writer.run(queue)).map_err(failed)?;
        Ok(Self { entries })
    }

    /// Waits for a place in the queue. Taken before the state is locked, used while it is, so that the journal has the
    /// order of the commits.
    pub async fn reserve(&self) -> Result<Place<'_>, JournalClosed> {
        self.entries.reserve().await.map(Place).map_err(|_| JournalClosed)
    }

    /// Writes all that waits, makes it durable and stops the writer.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.entries.send(Entry::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

impl Place<'_> {
    /// Appends a line whose writing is waited for.
    pub fn append(self, record: Record) -> Written {
        let (done, written) = oneshot::channel();
        self.0.send(Entry::Append(record, Some(done)));
        Written(written)
    }

    /// Appends a line that may be lost.
    pub fn append_unawaited(self, record: Record) {
        self.0.send(Entry::Append(record, None));
    }
}

impl Written {
    /// Waits until the line is with the operating system.
    pub async fn wait(self) -> Result<(), JournalClosed> {
        self.0.await.map_err(|_| JournalClosed)
    }
}

fn replay(path: &Path, state: &mut State) -> Result<(), SandboxError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|source| SandboxError::Journal { path: path.to_owned(), source })?,
    };
    let mut lines = BufReader::new(file).split(b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let line = line.map_err(|source| SandboxError::Journal { path: path.to_owned(), source })?;
        match serde_json::from_slice(&line) {
            Ok(record) => state.replay(record),
            Err(_) if lines.peek().is_none() => {
                tracing::warn!(line = index + 1, "the journal's torn last line is dropped")
            }
            Err(source) => return Err(SandboxError::Corrupt { path: path.to_owned(), line: index + 1, source }),
        }
    }
    Ok(())
}

fn compact(directory: &Path, state: &State) -> io::Result<()> {
    let fresh = directory.join(COMPACTED);
    let mut file = BufWriter::new(File::create(&fresh)?);
    for record in state.records() {
        serde_json::to_writer(&mut file, &record)?;
        file.write_all(b"\n")?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&fresh, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

struct Writer {
    file: File,
    lines: Vec<u8>,
    path: PathBuf,
    /// A line may be torn now: nothing may follow it.
    broken: bool,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            let closing = self.write(&mut batch);
            if let Some(done) = closing {
                let _ = self.file.sync_all();
                let _ = done.send(());
                return;
            }
        }
    }

    /// Writes a batch; hands back who waits for the end, if it came.
    fn write(&mut self, batch: &mut Vec<Entry>) -> Option<oneshot::Sender<()>> {
        let mut waiting = Vec::new();
        let mut closing = None;
        self.lines.clear();
        for entry in batch.drain(..) {
            match entry {
                Entry::Append(record, done) => {
                    let is_written = self.add_line(&record);
                    waiting.extend(done.filter(|_| is_written));
                }
                Entry::Close(done) => closing = Some(done),
            }
        }
        if self.flush() {
            // Whoever went away in the meantime need not be told.
            waiting.into_iter().for_each(|done| done.send(()).unwrap_or_default());
        }
        closing
    }

    fn add_line(&mut self, record: &Record) -> bool {
        let start = self.lines.len();
        let written = serde_json::to_writer(&mut self.lines, record);
        match &written {
            Ok(()) => self.lines.push(b'\n'),
            Err(error) => {
                tracing::error!(%error, "a journal line could not be written down");
                self.lines.truncate(start);
            }
        }
        written.is_ok()
    }

    fn flush(&mut self) -> bool {
        if self.broken {
            return false;
        }
        if let Err(error) = self.file.write_all(&self.lines) {
            tracing::error!(%error, path = %self.path.display(), "the sandbox's journal cannot be written");
            self.broken = true;
        }
        !self.broken
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Limits;
    use super::*;

    fn state() -> State {
        State::new(Limits::default())
    }

    fn write(text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), text).unwrap();
        directory
    }

    const BOOKS: &str = "{\"forgotten\":{}}\n";

    #[test]
    fn a_torn_last_line_is_dropped() {
        let directory = write(&format!("{BOOKS}{{\"commit\":{{\"obj"));
        assert!(Journal::open(directory.path(), &mut state()).is_ok());
        assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), BOOKS);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_told_by_its_number() {
        let directory = write(&format!("{BOOKS}nonsense\n{BOOKS}"));
        let error = Journal::open(directory.path(), &mut state()).unwrap_err();
        assert!(matches!(error, SandboxError::Corrupt { line: 2, .. }), "{error}");
    }

    #[tokio::test]
    async fn after_closing_nothing_can_be_appended() {
        let directory = write("");
        let journal = Journal::open(directory.path(), &mut state()).unwrap();
        let place = journal.reserve().await.unwrap();
        assert!(place.append(Record::Forgotten(Default::default())).wait().await.is_ok());
        journal.close().await;
        let refused = match journal.reserve().await {
            Ok(place) => place.append(Record::Forgotten(Default::default())).wait().await.is_err(),
            Err(JournalClosed) => true,
        };
        assert!(refused);
        assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), format!("{BOOKS}{BOOKS}"));
    }
}
