//! Connections that are kept for the next call.
//!
//! `sqlx` has a pool too. Its way back costs a journey to the server with each call, and what became of a call whose time
//! is over is not in the caller's hands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::PostgresOptions;

/// A connection that was idle for longer is tried before it is used: it may have been cut without a word.
const RESTED: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is closed.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What each connection is set to: tables grow from nothing within a minute, so plans go by the indexes whatever the
/// statistics say; a call ends by itself on the server too; and it is committed when it is on the disk.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; SET statement_timeout = PATIENCE; \
     SET idle_in_transaction_session_timeout = 60000; SET jit = off; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    Closed,
    /// None in the time that there was.
    Late,
    Failed(sqlx::Error),
}

#[derive(Debug)]
pub(super) struct Pool {
    options: PgConnectOptions,
    session: String,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

/// A connection for one call. It is closed unless it is given back.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: PgConnection,
    _slot: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(options: &PostgresOptions) -> Self {
        let count = usize::try_from(options.connections.max(1)).unwrap_or(1);
        Self {
            options: options.connect.clone(),
            session: SESSION.replace("PATIENCE", &options.patience.as_millis().to_string()),
            slots: Arc::new(Semaphore::new(count)),
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, before `end`.
    pub(super) async fn lease(&self, end: Instant) -> Result<Lease, NoConnection> {
        let slot = timeout_at(end, Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.map_err(|_| NoConnection::Late)?.map_err(|_| NoConnection::Closed)?;
        loop {
            let Some((mut connection, since)) = self.idle().pop() else { break };
            let fresh = since.elapsed() < RESTED;
            if fresh || matches!(timeout_at(end, connection.ping()).await, Ok(Ok(()))) {
                return Ok(Lease { connection, _slot: slot });
            }
        }
        let connection = timeout_at(end, self.connect()).await.map_err(|_| NoConnection::Late)?;
        Ok(Lease { connection: connection.map_err(NoConnection::Failed)?, _slot: slot })
    }

    /// A connection that is not counted.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute(AssertSqlSafe(self.session.as_str())).await?;
        Ok(connection)
    }

    /// Keeps a connection on which nothing is under way.
    pub(super) fn give_back(&self, lease: Lease) {
        if self.slots.is_closed() {
            return;
        }
        let mut idle = self.idle();
        idle.retain(|(_, since)| since.elapsed() < FORGOTTEN);
        idle.push((lease.connection, Instant::now()));
    }

    /// Closes what is idle; nobody gets a connection any more.
    pub(super) fn close(&self) {
        self.slots.close();
        self.idle().clear();
    }
}
