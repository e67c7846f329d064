//! One thread writes. Changes that wait while the disk is busy are committed together, so that each costs a share of one
//! flush.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use redb::{Database, Durability, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;

/// Most jobs of one transaction.
const TOGETHER: usize = 256;
/// Jobs that wait.
const WAITING: usize = 1024;

/// Says after the commit whether it succeeded.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Works in a transaction.
type Job = Box<dyn FnOnce(&WriteTransaction) -> Result<Finish, StoreError> + Send>;

/// The writing thread of a database.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(crate) fn start(database: Arc<Database>) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let thread = thread::Builder::new().name("store".into()).spawn(move || run(&database, waiting))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }

    /// Does `work` in a transaction and `after` when it is on the disk. A `work` that fails with an error of the medium
    /// takes the whole transaction with it, so it must not fail otherwise: what it refuses is part of its answer.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let job: Job = Box::new(move |transaction| {
            let done = match work(transaction) {
                Ok(done) => done,
                Err(error) => {
                    let _ = reply.send(Err(error.clone()));
                    return Err(error);
                }
            };
            Ok(Box::new(move |committed| {
                if committed.is_ok() {
                    after(&done);
                }
                // An error says that the caller went away; the change is made.
                let _ = reply.send(committed.map(|()| done));
            }))
        });
        jobs.ok_or(StoreError::Closed)?.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Ends the thread when all that waits is written.
    pub(crate) fn stop(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(database: &Database, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut finishes = Vec::new();
        let result = transact(database, first, &mut waiting, &mut finishes);
        for finish in finishes {
            finish(result.clone());
        }
    }
}

fn transact(
    database: &Database,
    first: Job,
    waiting: &mut mpsc::Receiver<Job>,
    finishes: &mut Vec<Finish>,
) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::Immediate).map_err(failed)?;
    let mut next = Some(first);
    while let Some(job) = next {
        finishes.push(job(&transaction)?);
        next = if finishes.len() < TOGETHER { waiting.try_recv().ok() } else { None };
    }
    transaction.commit().map_err(failed)
}

/// An error of the medium.
pub(crate) fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed(error.into().to_string())
}
