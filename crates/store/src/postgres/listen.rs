//! What other replicas change, as PostgreSQL announces it.

use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::PostgresOptions;
use crate::record::{Id, Kind, Tenant};
use crate::watch::{Announcer, Change, Event};

/// How often a silent connection is asked whether it is alive, and how long it has to answer.
const HEARTBEAT: Duration = Duration::from_millis(700);
/// How long an attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(3);
/// First and longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Listens from now on, until the task is aborted.
pub(super) async fn start(
    options: &PostgresOptions,
    channel: String,
    announcer: Announcer,
) -> Result<JoinHandle<()>, sqlx::Error> {
    let options = options.connect.clone();
    let first = connect(&options, &channel).await?;
    Ok(tokio::spawn(async move {
        let mut listener = first;
        loop {
            follow(&mut listener, &announcer).await;
            announcer.send(Event::Lost);
            drop(listener);
            let mut pause = PAUSE.0;
            listener = loop {
                match connect(&options, &channel).await {
                    Ok(listener) => break listener,
                    Err(_) => sleep(pause).await,
                }
                pause = pause.saturating_mul(2).min(PAUSE.1);
            };
            // From here on nothing is missed, so whoever reads now reads all.
            announcer.send(Event::Missed);
        }
    }))
}

/// A connection that listens. A listener wants a pool, this one has a single connection.
async fn connect(options: &PgConnectOptions, channel: &str) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(CONNECT)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.ignore_pool_close_event(true);
    listener.listen(channel).await?;
    Ok(listener)
}

/// Passes on what is announced, until the connection is lost.
async fn follow(listener: &mut PgListener, announcer: &Announcer) {
    loop {
        match timeout(HEARTBEAT, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => announcer.send(match parse(notification.payload()) {
                Some(change) => Event::Changed(change),
                // Nobody but this program announces here; what it means is to be found out by reading.
                None => Event::Missed,
            }),
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => match timeout(HEARTBEAT, listener.execute("SELECT 1")).await {
                Ok(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

/// What is announced about a record, behind the number of the change; nothing for kinds that are not announced.
pub(super) fn notice(id: &Id, deleted: bool) -> Option<String> {
    let what = if deleted { "delete" } else { "put" };
    let key = hex::encode(id.key());
    id.kind().announced().then(|| format!("{what} {} {} {key}", id.tenant(), id.kind()))
}

/// Reads an announcement, all of which has to be one.
fn parse(text: &str) -> Option<Change> {
    let mut parts = text.split(' ');
    let revision = parts.next()?.parse().ok()?;
    let deleted = match parts.next()? {
        "put" => false,
        "delete" => true,
        _ => return None,
    };
    let tenant = Tenant::new(parts.next()?).ok()?;
    let kind: Kind = parts.next()?.parse().ok()?;
    let key = String::from_utf8(hex::decode(parts.next()?).ok()?).ok()?;
    let id = Id::new(&tenant, kind, &key).ok()?;
    parts.next().is_none().then_some(Change { id, revision, deleted })
}

/// For the fuzzer: an announcement of any bytes.
pub(crate) fn fuzz(data: &[u8]) {
    let Some(change) = std::str::from_utf8(data).ok().and_then(parse) else { return };
    if let Some(notice) = notice(&change.id, change.deleted) {
        assert_eq!(parse(&format!("{} {notice}", change.revision)), Some(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_read_as_a_whole() {
        let tenant = Tenant::new("acme").unwrap();
        let id = Id::new(&tenant, Kind::Policy, "a b/ü").unwrap();
        let text = notice(&id, true).unwrap();
        let change = Change { id: id.clone(), revision: 7, deleted: true };
        assert_eq!(parse(&format!("7 {text}")), Some(change));
        for bad in [
            text.clone(),
            format!("7 {text} x"),
            format!("-7 {text}"),
            format!("7 {}", text.replace("delete", "drop")),
            format!("7 {}", text.replace("acme", "ACME")),
            format!("7 {}", text.replace("policy", "polity")),
            format!("7 {text}0"),
            "7 put acme policy ".into(),
            "7 put acme policy ff".into(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
        assert_eq!(notice(&Id::new(&tenant, Kind::Session, "s").unwrap(), false), None);
        // The longest fits into what PostgreSQL takes: 8000 bytes.
        let long = Tenant::new(&"t".repeat(64)).unwrap();
        let long = Id::new(&long, Kind::Revocation, &"k".repeat(1024)).unwrap();
        assert!(notice(&long, true).unwrap().len() < 7900);
    }
}
