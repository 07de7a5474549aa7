//! The one thread that writes the audit log.

use super::file::LogFile;
use super::floods::Flood;
use super::time::rfc3339;
use super::{AuditError, Event, Message, Shared};
use crate::clock::{Clock, WallMillis};
use crate::config::AuditConfig;
use serde::Serialize;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often the writer looks for floods that are over while nothing else happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where lines go.
pub(super) enum Target {
    StandardOutput,
    StandardError,
    File(LogFile),
    /// Tests: a disk that can be filled.
    #[cfg(test)]
    Other(Box<dyn Write + Send>),
}

impl Target {
    pub(super) fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        match config {
            AuditConfig::StandardOutput => Ok(Self::StandardOutput),
            AuditConfig::StandardError => Ok(Self::StandardError),
            AuditConfig::File { path, rotation } => {
                let file = LogFile::open(path, *rotation);
                Ok(Self::File(file.map_err(|source| AuditError::Open { path: path.clone(), source })?))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::StandardError => io::stderr().lock().write_all(bytes),
            Self::File(file) => file.write(bytes),
            #[cfg(test)]
            Self::Other(other) => other.write_all(bytes),
        }
    }

    fn sync(&self) -> io::Result<()> {
        if let Self::File(file) = self { file.file.sync_data() } else { Ok(()) }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(file) = self { file.reopen() } else { Ok(()) }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// The state of the thread.
pub(super) struct Writer {
    target: Target,
    shared: Arc<Shared>,
    clock: Clock,
    /// The last write failed; it is reported once, and may have left half a line.
    failing: bool,
}

impl Writer {
    pub(super) fn new(target: Target, shared: Arc<Shared>, clock: Clock) -> Self {
        Self { target, shared, clock, failing: false }
    }

    /// Writes until the last handle of the log is gone.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.recv_timeout(LOOK_EVERY) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => Message::Look,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.look();
            match message {
                Message::Line(line) => self.line(line.0, &line.1),
                Message::Look => {}
                Message::Sync(done) => {
                    self.sync();
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
                Message::Stop(done) => {
                    self.stop();
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
            }
        }
        self.tell_closed_floods();
    }

    /// Does what is not in the channel: reopening, and counts that are to be told.
    fn look(&mut self) {
        if self.shared.reopen.swap(false, Ordering::AcqRel)
            && let Err(error) = self.target.reopen()
        {
            tracing::error!(%error, "the audit file can't be reopened; lines go to the old one");
        }
        let over = self.shared.floods().over(self.clock.monotonic());
        self.tell_floods(over);
        self.tell_dropped();
    }

    fn stop(&mut self) {
        self.tell_closed_floods();
        self.tell_dropped();
        self.line(self.clock.wall(), &Event::Stopped);
        self.sync();
    }

    fn sync(&self) {
        if let Err(error) = self.target.sync() {
            tracing::error!(%error, "the audit file can't be synced");
        }
    }

    fn tell_closed_floods(&mut self) {
        let over = self.shared.floods().close();
        self.tell_floods(over);
    }

    fn tell_floods(&mut self, (over, lost): (Vec<(Flood, u64)>, u64)) {
        if lost > 0 {
            self.shared.drop_lines(lost);
        }
        for (flood, count) in over {
            self.line(self.clock.wall(), &Event::RefusedMany { flood, count });
        }
    }

    fn tell_dropped(&mut self) {
        let lines = self.shared.untold.swap(0, Ordering::Relaxed);
        if lines > 0 && !self.written(self.clock.wall(), &Event::Dropped { lines }) {
            // This line is no decision: only what it tells is still to be told.
            self.shared.untold.fetch_add(lines, Ordering::Relaxed);
        }
    }

    fn line(&mut self, at: WallMillis, event: &Event) {
        if !self.written(at, event) {
            self.shared.drop_lines(1);
        }
    }

    fn written(&mut self, at: WallMillis, event: &Event) -> bool {
        let written = encoded(at, event, self.failing).and_then(|bytes| self.target.write(&bytes));
        match &written {
            Ok(()) if self.failing => tracing::info!("the audit log is written again"),
            Err(error) if !self.failing => tracing::error!(%error, "the audit log can't be written; lines are counted"),
            _ => {}
        }
        self.failing = written.is_err();
        written.is_ok()
    }
}

/// The line with its end, in one piece, so that one write carries it.
fn encoded(at: WallMillis, event: &Event, after_half_a_line: bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    if after_half_a_line {
        bytes.push(b'\n');
    }
    serde_json::to_writer(&mut bytes, &Line { time: rfc3339(at), event })?;
    bytes.push(b'\n');
    Ok(bytes)
}
