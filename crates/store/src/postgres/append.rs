//! Appending to logs. A log is locked from the first entry of a transaction to its commit, so entries that wait for that
//! in one replica are appended together.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::call::{Caller, Failed, arguments};
use crate::error::StoreError;
use crate::record::{MAX_BATCH, Tenant};

struct Waiting {
    tenant: Tenant,
    bodies: Vec<Vec<u8>>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// What waits to be appended.
#[derive(Default)]
pub(super) struct Appender {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether somebody appends and will look again.
    busy: bool,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").finish_non_exhaustive()
    }
}

impl Appender {
    pub(super) async fn append(
        &self,
        caller: &Arc<Caller>,
        tenant: &Tenant,
        bodies: Vec<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        let first = {
            let mut queue = lock(&self.queue);
            queue.waiting.push(Waiting { tenant: tenant.clone(), bodies, done });
            !std::mem::replace(&mut queue.busy, true)
        };
        if first {
            // A task of its own: what others wait for does not end with this call.
            tokio::spawn(work(Arc::clone(caller), Arc::clone(&self.queue)));
        }
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn lock(queue: &Mutex<Queue>) -> std::sync::MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn work(caller: Arc<Caller>, queue: Arc<Mutex<Queue>>) {
    loop {
        let part: Vec<Waiting> = {
            let mut queue = lock(&queue);
            // At least one, however long it is.
            let mut bodies = 0_usize;
            let many = |waiting: &Waiting| {
                bodies = bodies.saturating_add(waiting.bodies.len());
                bodies > MAX_BATCH
            };
            let count = queue.waiting.iter().position(many).unwrap_or(queue.waiting.len()).max(1);
            let count = count.min(queue.waiting.len());
            if count == 0 {
                queue.busy = false;
                return;
            }
            queue.waiting.drain(..count).collect()
        };
        let mut tenants = Vec::new();
        let mut bodies = Vec::new();
        for waiting in &part {
            tenants.extend(waiting.bodies.iter().map(|_| waiting.tenant.as_str()));
            bodies.extend(waiting.bodies.iter().map(Vec::as_slice));
        }
        let written = caller.write("SELECT belljar_append($1, $2)", arguments![&tenants, &bodies]).await;
        let written = written.map(drop).map_err(Failed::into);
        drop((tenants, bodies));
        for waiting in part {
            let _ = waiting.done.send(written.clone());
        }
    }
}
