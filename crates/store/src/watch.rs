//! Changes as they happen, for those who keep copies.

use tokio::sync::broadcast::{self, error::RecvError};

use crate::record::Id;

/// Events that a slow watcher may be behind; then it has missed some.
const BEHIND: usize = 4096;

/// A record was written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub id: Id,
    /// By which change.
    pub revision: u64,
    /// Whether it is gone.
    pub deleted: bool,
}

/// What a watcher learns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A record of an announced kind was changed, here or by another replica.
    Changed(Change),
    /// The connection over which other replicas' changes come is lost: copies may be out of date from now on, and
    /// [`Event::Missed`] comes when it is back.
    Lost,
    /// Some changes were not seen: the connection was lost, or the watcher was too slow. Read everything again.
    Missed,
}

/// Where events go.
#[derive(Debug, Clone)]
pub(crate) struct Announcer(broadcast::Sender<Event>);

impl Announcer {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    pub(crate) fn send(&self, event: Event) {
        // An error says that nobody watches.
        let _ = self.0.send(event);
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }
}

/// The changes of a store from the moment on at which this was made. To keep a copy: watch first, then read.
#[derive(Debug)]
pub struct Watch(broadcast::Receiver<Event>);

impl Watch {
    /// The next event; `None` when the store is closed.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(_)) => Some(Event::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}
