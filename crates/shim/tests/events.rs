//! Events reach containerd in their order, also when it was away, against a server that answers as containerd does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use belljar_shim::events::{Event, Events, MAX_WAITING};
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::events::task::{TaskExit, TaskOOM, TaskStart};
use containerd_shim_protos::shim_async::{Events as EventsService, create_events};
use protobuf::Message as _;
use tokio::sync::mpsc;
use ttrpc::asynchronous::{Server, TtrpcContext};

struct Containerd(mpsc::UnboundedSender<ForwardRequest>);

#[async_trait]
impl EventsService for Containerd {
    async fn forward(&self, context: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        assert_eq!(context.metadata["containerd-namespace-ttrpc"], ["k8s.io"]);
        let refused = request.envelope.topic == "/tasks/oom";
        self.0.send(request).unwrap();
        match refused {
            // As containerd answers what it cannot read; it must not stop the queue.
            true => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no"))),
            false => Ok(Empty::new()),
        }
    }
}

async fn serve(socket: &Path) -> (Server, mpsc::UnboundedReceiver<ForwardRequest>) {
    let _ = std::fs::remove_file(socket);
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .unwrap()
        .register_service(create_events(Arc::new(Containerd(sender))));
    server.start().await.unwrap();
    (server, receiver)
}

fn start(id: &str) -> Event {
    Event::Start(TaskStart { container_id: id.into(), pid: 7, ..Default::default() })
}

async fn next(receiver: &mut mpsc::UnboundedReceiver<ForwardRequest>) -> (String, ForwardRequest) {
    let request = tokio::time::timeout(Duration::from_secs(20), receiver.recv()).await.expect("an event").unwrap();
    (request.envelope.topic.clone(), request)
}

fn started(request: &ForwardRequest) -> String {
    TaskStart::parse_from_bytes(&request.envelope.event.value).unwrap().container_id
}

#[tokio::test]
async fn events_keep_their_order_while_containerd_goes_and_comes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock.ttrpc");
    let events = Events::start(socket.to_str(), "k8s.io");
    // Nobody listens yet.
    events.send(&start("a"));
    events.send(&Event::Oom(TaskOOM { container_id: "a".into(), ..Default::default() }));
    events.send(&Event::Exit(TaskExit {
        container_id: "a".into(),
        id: "a".into(),
        exit_status: 137,
        ..Default::default()
    }));
    let (mut server, mut receiver) = serve(&socket).await;
    let (topic, request) = next(&mut receiver).await;
    assert_eq!(topic, "/tasks/start");
    assert_eq!(request.envelope.namespace, "k8s.io");
    assert_eq!(request.envelope.event.type_url, "containerd.events.TaskStart");
    assert_eq!(started(&request), "a");
    assert_eq!(next(&mut receiver).await.0, "/tasks/oom");
    let (topic, request) = next(&mut receiver).await;
    assert_eq!(topic, "/tasks/exit");
    assert_eq!(TaskExit::parse_from_bytes(&request.envelope.event.value).unwrap().exit_status, 137);
    events.flush(Duration::from_secs(20)).await;

    server.shutdown().await.unwrap();
    drop(server);
    drop(receiver);
    for id in ["b", "c", "d"] {
        events.send(&start(id));
    }
    let (_server, mut receiver) = serve(&socket).await;
    for id in ["b", "c", "d"] {
        assert_eq!(started(&next(&mut receiver).await.1), id);
    }
}

#[tokio::test]
async fn too_many_events_drop_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock.ttrpc");
    let events = Events::start(socket.to_str(), "k8s.io");
    for id in 0..MAX_WAITING + 2 {
        events.send(&start(&id.to_string()));
    }
    let (_server, mut receiver) = serve(&socket).await;
    for id in 2..MAX_WAITING + 2 {
        assert_eq!(started(&next(&mut receiver).await.1), id.to_string());
    }
}

#[tokio::test]
async fn without_an_address_nothing_waits() {
    let events = Events::start(None, "default");
    events.send(&start("a"));
    tokio::time::timeout(Duration::from_secs(5), events.flush(Duration::from_secs(60))).await.unwrap();
}
