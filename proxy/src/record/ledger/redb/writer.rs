//! The one thread that writes, with group commit: transitions that wait together share one sync.

use super::storage::{Fault, Storage};
use super::tables::Tables;
use crate::record::ledger::LedgerError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// How many transitions one transaction takes: bounds how long the first of them waits.
const BATCH_MAX: usize = 256;
/// How many may wait for the writer. A full queue makes callers wait, and each caller already holds a place in admission.
const WAITING_MAX: usize = 1024;

/// The sending side; closing or dropping it lets the thread finish what waits and end.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Step>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(storage: Arc<Storage>) -> Result<Self, LedgerError> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || run(&storage, waiting))
            .map_err(|error| LedgerError::Unavailable { action: "start its writer", reason: error.to_string() })?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// Takes nothing more, and waits until what was taken is written. Blocks.
    pub(super) fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It ends after at most a few syncs. A panic in it was reported by the panic hook.
            let _ = thread.join();
        }
    }

    /// Applies a transition; resolves after its sync. If the caller goes away meanwhile, the transition happens all the same.
    ///
    /// INVARIANT: `transition` reads and checks everything before its first write, so that a refused one leaves nothing behind.
    pub(super) async fn write<T, F>(&self, action: &'static str, transition: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let stopped = || LedgerError::Unavailable { action, reason: "its writer has stopped".into() };
        let (reply, outcome) = oneshot::channel();
        let step = Transition { action, work: Some(transition), outcome: None, reply };
        // A sender of its own: what is being put into the queue when it closes is written still.
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(stopped)?;
        queue.send(Box::new(step)).await.map_err(|_| stopped())?;
        drop(queue);
        outcome.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(storage: &Storage, mut waiting: mpsc::Receiver<Box<dyn Step>>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            match waiting.try_recv() {
                Ok(next) => batch.push(next),
                Err(_) => break,
            }
        }
        let committed = storage.write(|transaction| {
            let mut tables = Tables::open(transaction)?;
            let mut wrote = false;
            for step in &mut batch {
                wrote |= step.apply(&mut tables)?;
            }
            Ok(wrote)
        });
        let failure = committed.err().map(|fault| match fault {
            Fault::Store(error) => error.to_string(),
            Fault::Refused(error) => error.to_string(),
        });
        if let Some(reason) = &failure {
            tracing::error!(%reason, transitions = batch.len(), "the ledger can't write");
        }
        for step in batch {
            step.answer(failure.as_deref());
        }
    }
}

/// A transition on its way through the writer.
trait Step: Send {
    /// Runs it; `true` if it may have written. An error is the storage's and ends the whole transaction.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<bool, Fault>;
    /// Tells its caller what became of it, after the sync.
    fn answer(self: Box<Self>, failure: Option<&str>);
}

struct Transition<T, F> {
    action: &'static str,
    work: Option<F>,
    outcome: Option<Result<T, LedgerError>>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<T, F> Step for Transition<T, F>
where
    T: Send,
    F: FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send,
{
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<bool, Fault> {
        let Some(work) = self.work.take() else { return Ok(false) };
        let outcome = match work(tables) {
            Ok(value) => Ok(value),
            Err(Fault::Refused(error)) => Err(error),
            Err(store) => return Err(store),
        };
        let wrote = outcome.is_ok();
        self.outcome = Some(outcome);
        Ok(wrote)
    }

    fn answer(self: Box<Self>, failure: Option<&str>) {
        let unavailable = |reason: &str| LedgerError::Unavailable { action: self.action, reason: reason.to_owned() };
        // A refusal falls with the transaction too: it may rest on a neighbour that is not there now.
        let outcome = match (failure, self.outcome) {
            (None, Some(outcome)) => outcome,
            (None, None) => Err(unavailable("it was not applied")),
            (Some(reason), _) => Err(unavailable(reason)),
        };
        // Nobody may be waiting any more.
        let _ = self.reply.send(outcome);
    }
}
