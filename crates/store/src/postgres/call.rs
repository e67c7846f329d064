//! One call of the database: within a bounded time, tried again where that is safe.
//!
//! An error that the server itself tells about a statement says that its transaction was rolled back, also when it says
//! that it is shutting down. So does a connection that cannot be written to: the message that commits is the last. Only
//! when the answer does not come is it unknown whether a change was made.

use std::io::ErrorKind;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use tokio::time::{Instant, sleep, timeout_at};

use super::PostgresOptions;
use super::pool::{NoConnection, Pool};
use crate::error::StoreError;

/// First and longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How long a call may take that reads or counts much.
const LONG: Duration = Duration::from_secs(600);

/// How a call failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server cannot be reached or does not take the call now; nothing was changed.
    Away(String),
    /// The server refused the statement, which it rolled back.
    Database { code: String, message: String },
    /// No answer came.
    Unknown(String),
    /// The store was closed.
    Closed,
    /// The answer is not one that this version knows.
    Malformed(String),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Away(why) => Self::Away(why),
            Failed::Database { code, message } => Self::Failed(format!("PostgreSQL says {message} ({code})")),
            Failed::Unknown(why) => Self::Unknown(why),
            Failed::Closed => Self::Closed,
            Failed::Malformed(what) => Self::Malformed(what),
        }
    }
}

impl Failed {
    fn of(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default().into_owned();
                let message = error.message().to_owned();
                if is_away(&code) {
                    Self::Away(format!("PostgreSQL says {message} ({code})"))
                } else {
                    Self::Database { code, message }
                }
            }
            sqlx::Error::Io(error) if error.kind() == ErrorKind::BrokenPipe => Self::Away(error.to_string()),
            sqlx::Error::Io(error) => Self::Unknown(error.to_string()),
            sqlx::Error::Tls(error) => Self::Unknown(error.to_string()),
            sqlx::Error::Protocol(why) => Self::Unknown(why),
            other => Self::Malformed(other.to_string()),
        }
    }

    /// Of a call that changes nothing.
    fn harmless(self) -> Self {
        match self {
            Self::Unknown(why) => Self::Away(why),
            other => other,
        }
    }

    /// Whether the server says this about the call: the connection is as good as before.
    fn is_about_call(&self) -> bool {
        matches!(self, Self::Database { .. })
    }
}

/// Whether a code says that the server cannot do it now: connection, resources, operator intervention, system, a standby
/// that only reads, credentials that changed, and transactions that were in each other's way.
fn is_away(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "53" | "57" | "58" | "28"))
        || matches!(code, "25006" | "40001" | "40P01" | "55P03" | "3D000")
}

/// An error before anything was asked, or of a call that changes nothing.
pub(super) fn classify(error: sqlx::Error) -> StoreError {
    Failed::of(error).harmless().into()
}

/// Builds the arguments of a statement, once for each try.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {
        || {
            #[allow(unused_mut)]
            let mut arguments = sqlx::postgres::PgArguments::default();
            $(sqlx::Arguments::add(&mut arguments, $value).map_err(sqlx::Error::Encode)?;)*
            Ok(arguments)
        }
    };
}
pub(super) use arguments;

/// Makes calls.
#[derive(Debug)]
pub(super) struct Caller {
    pool: Pool,
    patience: Duration,
}

impl Caller {
    pub(super) fn new(options: &PostgresOptions) -> Self {
        Self { pool: Pool::new(options), patience: options.patience }
    }

    /// A statement that changes nothing: tried again until the time is over.
    pub(super) async fn read(
        &self,
        sql: &'static str,
        arguments: impl Fn() -> Result<PgArguments, sqlx::Error>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.tries(sql, arguments, true).await.map_err(StoreError::from)
    }

    /// A statement that changes something: tried again where it surely did not.
    pub(super) async fn write(
        &self,
        sql: &'static str,
        arguments: impl Fn() -> Result<PgArguments, sqlx::Error>,
    ) -> Result<Vec<PgRow>, Failed> {
        self.tries(sql, arguments, false).await
    }

    /// A statement that changes nothing and reads much: on a connection of its own, on which the server's bound is lifted.
    pub(super) async fn read_long(
        &self,
        sql: &'static str,
        arguments: impl Fn() -> Result<PgArguments, sqlx::Error>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.connect_long().await?;
        let arguments = arguments().map_err(classify)?;
        match timeout_at(Instant::now() + LONG, sqlx::query_with(sql, arguments).fetch_all(&mut connection)).await {
            Ok(rows) => rows.map_err(classify),
            Err(_) => Err(StoreError::Away(format!("no answer in {} s", LONG.as_secs()))),
        }
    }

    /// A connection that is not counted and whose statements may take their time.
    pub(super) async fn connect_long(&self) -> Result<PgConnection, StoreError> {
        let connecting = async {
            let mut connection = self.pool.connect().await?;
            sqlx::query("SET statement_timeout = 0").execute(&mut connection).await?;
            Ok(connection)
        };
        match timeout_at(Instant::now() + self.patience, connecting).await {
            Ok(connected) => connected.map_err(classify),
            Err(_) => Err(StoreError::Away("no connection in time".into())),
        }
    }

    /// Makes no calls any more.
    pub(super) fn close(&self) {
        self.pool.close();
    }

    async fn tries(
        &self,
        sql: &'static str,
        arguments: impl Fn() -> Result<PgArguments, sqlx::Error>,
        harmless: bool,
    ) -> Result<Vec<PgRow>, Failed> {
        let end = Instant::now() + self.patience;
        let mut pause = PAUSE.0;
        loop {
            let failed = match self.once(sql, &arguments, end).await {
                Ok(rows) => return Ok(rows),
                Err(failed) if harmless => failed.harmless(),
                Err(failed) => failed,
            };
            if !matches!(failed, Failed::Away(_)) || Instant::now() + pause >= end {
                return Err(failed);
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    async fn once(
        &self,
        sql: &'static str,
        arguments: &impl Fn() -> Result<PgArguments, sqlx::Error>,
        end: Instant,
    ) -> Result<Vec<PgRow>, Failed> {
        let mut lease = self.pool.lease(end).await.map_err(|error| match error {
            NoConnection::Closed => Failed::Closed,
            NoConnection::Late => Failed::Away("no connection in time".into()),
            // Nothing was asked yet.
            NoConnection::Failed(error) => Failed::of(error).harmless(),
        })?;
        let arguments = arguments().map_err(Failed::of)?;
        match timeout_at(end, sqlx::query_with(sql, arguments).fetch_all(&mut lease.connection)).await {
            Ok(Ok(rows)) => {
                self.pool.give_back(lease);
                Ok(rows)
            }
            Ok(Err(error)) => {
                let failed = Failed::of(error);
                if failed.is_about_call() {
                    self.pool.give_back(lease);
                }
                Err(failed)
            }
            // The answer may still come, so nobody else may have this connection.
            Err(_) => Err(Failed::Unknown(format!("no answer in {} ms", self.patience.as_millis()))),
        }
    }
}
