//! PID 1 of the guests that this crate's tests boot. The word `test=` of the kernel command line says what it does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use belljar_guest_api::api::{
    Agent, Empty, HelloRequest, HelloResponse, ShutdownRequest, StartProbeRequest, create_agent,
};
use belljar_guest_api::{canary, names, softport};
use futures_util::StreamExt as _;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Server, TtrpcContext};

fn main() {
    for (kind, to) in [("devtmpfs", "/dev"), ("sysfs", "/sys"), ("proc", "/proc")] {
        let _ = std::fs::create_dir(to);
        mount(kind, to, kind, MountFlags::empty(), None).unwrap();
    }
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap();
    let test = cmdline.split_whitespace().find_map(|word| word.strip_prefix("test=")).unwrap_or("hello").to_owned();
    println!("test guest: {test}");
    match test.as_str() {
        "off" => power_off(),
        "panic" => std::process::exit(7),
        "garbage" => {
            port(names::AGENT_PORT).write_all(b"Welcome to the wrong protocol\n").unwrap();
            sleep()
        }
        "hang" => sleep(),
        _ => serve(test),
    }
}

fn sleep() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Gives back what comes on the probe port.
fn echo() {
    let mut port = OpenOptions::new().read(true).write(true).open(device(names::PROBE_PORT)).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = port.read(&mut bytes) {
        port.write_all(&bytes[..length]).unwrap();
    }
}

fn power_off() -> ! {
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    sleep()
}

fn device(name: &str) -> String {
    for port in std::fs::read_dir("/sys/class/virtio-ports").unwrap() {
        let port = port.unwrap();
        if std::fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim() == name) {
            return format!("/dev/{}", port.file_name().display());
        }
    }
    panic!("no port {name}")
}

fn port(name: &str) -> File {
    let flags = if name == names::PROBE_PORT { OFlags::NONBLOCK.bits().cast_signed() } else { 0 };
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(device(name)).unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn serve(test: String) {
    if test == "echo" {
        std::thread::spawn(echo);
    }
    let file = port(names::AGENT_PORT);
    let (read, write) = (tokio::fs::File::from_std(file.try_clone().unwrap()), tokio::fs::File::from_std(file));
    let socket = futures_util::stream::once(async { Ok(tokio::io::join(read, write)) });
    let listener = Listener::new(socket.chain(futures_util::stream::pending()));
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(create_agent(std::sync::Arc::new(Test(test, Default::default()))));
    server.start().await.unwrap();
    std::future::pending::<()>().await;
    drop(Socket::new(tokio::io::empty()));
}

struct Test(String, std::sync::Mutex<Option<(Vec<u8>, File)>>);

#[async_trait::async_trait]
impl Agent for Test {
    async fn hello(&self, _: &TtrpcContext, _: HelloRequest) -> ttrpc::Result<HelloResponse> {
        let protocol = if self.0 == "protocol" { 99 } else { belljar_guest_api::PROTOCOL };
        if self.0 == "refuse" {
            return Err(belljar_guest_api::status::Code::FailedPrecondition.error("no"));
        }
        let agent_version = match self.0.as_str() {
            "report" => {
                let mut tee = port(names::TEE_PORT);
                tee.write_all(&softport::Request { report_data: [5; 64] }.encode()).unwrap();
                let mut head = [0; softport::RESPONSE_HEADER_LEN];
                tee.read_exact(&mut head).unwrap();
                let mut frame = vec![0; softport::Response::frame_len(head).unwrap()];
                frame[..head.len()].copy_from_slice(&head);
                tee.read_exact(&mut frame[head.len()..]).unwrap();
                hex::encode(frame)
            }
            "bad-frame" => {
                port(names::TEE_PORT).write_all(&[b'x'; softport::REQUEST_LEN]).unwrap();
                "bad frame sent".into()
            }
            _ => "test".into(),
        };
        Ok(HelloResponse { protocol, agent_version, ..Default::default() })
    }

    async fn start_probe(&self, _: &TtrpcContext, request: StartProbeRequest) -> ttrpc::Result<Empty> {
        let seed: [u8; 32] = request.seed.try_into().unwrap();
        let private = canary(&seed, "private").repeat(request.copies as usize);
        let port = port(names::PROBE_PORT);
        let shared = canary(&seed, "shared").repeat(64);
        while (&port).write(&shared).is_ok() {}
        *self.1.lock().unwrap() = Some((private, port));
        Ok(Empty::new())
    }

    async fn end_probe(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        if let Some((mut private, _port)) = self.1.lock().unwrap().take() {
            private.fill(0);
            std::hint::black_box(&private);
        }
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        power_off()
    }
}
