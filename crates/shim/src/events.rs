//! Events for containerd, in the order in which things happened. They wait in a bounded queue while containerd is away, and are sent when it
//! is back; when too many wait, the oldest are dropped, since a containerd that starts again asks for every state anyway.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskStart,
};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::EventsClient;
use containerd_shim_protos::topics;
use protobuf::MessageFull;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::Notify;
use ttrpc::context;

/// Most events that wait.
pub const MAX_WAITING: usize = 1024;
/// Longest wait for containerd's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Shortest and longest time between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Where ttrpc carries containerd's namespace.
const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// What happened to a task.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the messages are containerd's, see its events/task.proto")]
pub enum Event {
    Create(TaskCreate),
    Start(TaskStart),
    Oom(TaskOOM),
    Exit(TaskExit),
    Delete(TaskDelete),
    ExecAdded(TaskExecAdded),
    ExecStarted(TaskExecStarted),
}

impl Event {
    fn topic(&self) -> &'static str {
        match self {
            Self::Create(_) => topics::TASK_CREATE_EVENT_TOPIC,
            Self::Start(_) => topics::TASK_START_EVENT_TOPIC,
            Self::Oom(_) => topics::TASK_OOM_EVENT_TOPIC,
            Self::Exit(_) => topics::TASK_EXIT_EVENT_TOPIC,
            Self::Delete(_) => topics::TASK_DELETE_EVENT_TOPIC,
            Self::ExecAdded(_) => topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            Self::ExecStarted(_) => topics::TASK_EXEC_STARTED_EVENT_TOPIC,
        }
    }

    /// Id of the container, and of the exec process where it is one's.
    fn id(&self) -> String {
        match self {
            Self::Create(message) => message.container_id.clone(),
            Self::Start(message) => message.container_id.clone(),
            Self::Oom(message) => message.container_id.clone(),
            Self::Exit(message) if message.id == message.container_id => message.id.clone(),
            Self::Exit(message) => format!("{}/{}", message.container_id, message.id),
            Self::Delete(message) => message.container_id.clone(),
            Self::ExecAdded(message) => format!("{}/{}", message.container_id, message.exec_id),
            Self::ExecStarted(message) => format!("{}/{}", message.container_id, message.exec_id),
        }
    }

    fn any(&self) -> Any {
        match self {
            Self::Create(message) => any(message),
            Self::Start(message) => any(message),
            Self::Oom(message) => any(message),
            Self::Exit(message) => any(message),
            Self::Delete(message) => any(message),
            Self::ExecAdded(message) => any(message),
            Self::ExecStarted(message) => any(message),
        }
    }
}

/// A message as an `Any` whose type is named as containerd names it, without a host.
pub fn any<M: MessageFull>(message: &M) -> Any {
    let mut any = Any::new();
    M::descriptor().full_name().clone_into(&mut any.type_url);
    // Writing into a Vec cannot fail.
    any.value = message.write_to_bytes().unwrap_or_default();
    any
}

/// A time as a protobuf timestamp.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut stamp = Timestamp::new();
    stamp.seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    stamp.nanos = i32::try_from(since.subsec_nanos()).unwrap_or_default();
    stamp
}

/// The queue. Clones are one queue.
#[derive(Debug, Clone)]
pub struct Events {
    namespace: String,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<VecDeque<Envelope>>,
    /// Something waits.
    some: Notify,
    /// Nothing waits any more.
    none: Notify,
    /// Nobody takes events.
    nobody: bool,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Envelope>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Sends events to the socket `address`; without one (CRI-O) they are logged. Needs a runtime.
    pub fn start(address: Option<&str>, namespace: &str) -> Self {
        let queue = Arc::new(Queue { nobody: address.is_none(), ..Queue::default() });
        if let Some(address) = address {
            let address = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
            tokio::spawn(publish(address, namespace.to_owned(), queue.clone()));
        }
        Self { namespace: namespace.to_owned(), queue }
    }

    /// Puts an event at the queue's end.
    pub fn send(&self, event: &Event) {
        tracing::info!(topic = event.topic(), id = event.id(), "event");
        if self.queue.nobody {
            return;
        }
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(timestamp(SystemTime::now())).into();
        self.namespace.clone_into(&mut envelope.namespace);
        event.topic().clone_into(&mut envelope.topic);
        envelope.event = Some(event.any()).into();
        let mut waiting = self.queue.lock();
        if waiting.len() >= MAX_WAITING {
            tracing::warn!("containerd takes no events; the oldest one is dropped");
            waiting.pop_front();
        }
        waiting.push_back(envelope);
        self.queue.some.notify_one();
    }

    /// Waits until containerd has all events, at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let empty = async {
            loop {
                let none = self.queue.none.notified();
                if self.queue.lock().is_empty() {
                    return;
                }
                none.await;
            }
        };
        let _ = tokio::time::timeout(limit, empty).await;
    }
}

async fn publish(address: String, namespace: String, queue: Arc<Queue>) {
    let mut client: Option<EventsClient> = None;
    let mut backoff = BACKOFF.0;
    loop {
        let some = queue.some.notified();
        let Some(envelope) = queue.lock().front().cloned() else {
            queue.none.notify_waiters();
            some.await;
            continue;
        };
        match forward(&mut client, &address, &namespace, &envelope).await {
            Ok(()) => {}
            Err(ttrpc::Error::RpcStatus(status)) if client.is_some() && is_answer(&status) => {
                tracing::warn!(topic = envelope.topic, reason = status.message, "containerd does not take an event");
            }
            Err(error) => {
                tracing::debug!(%error, "containerd is away");
                client = None;
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
                continue;
            }
        }
        backoff = BACKOFF.0;
        let mut waiting = queue.lock();
        // The one that was sent may have been dropped meanwhile.
        if waiting.front() == Some(&envelope) {
            waiting.pop_front();
        }
    }
}

/// Whether containerd itself answered so; a time-out is ttrpc's own word.
fn is_answer(status: &ttrpc::proto::Status) -> bool {
    status.code.enum_value() != Ok(ttrpc::Code::DEADLINE_EXCEEDED)
}

async fn forward(
    client: &mut Option<EventsClient>,
    address: &str,
    namespace: &str,
    envelope: &Envelope,
) -> ttrpc::Result<()> {
    if client.is_none() {
        *client = Some(EventsClient::new(ttrpc::asynchronous::Client::connect(address).await?));
    }
    let Some(client) = client else { return Err(ttrpc::Error::Others("no client".into())) };
    let mut context = context::with_duration(ANSWER);
    context.set(NAMESPACE_KEY.to_owned(), vec![namespace.to_owned()]);
    let mut request = ForwardRequest::new();
    request.envelope = Some(envelope.clone()).into();
    let forwarded = tokio::time::timeout(ANSWER, client.forward(context, &request)).await;
    forwarded.map_err(|_| ttrpc::Error::Others("no answer".into()))?.map(|_| ())
}
