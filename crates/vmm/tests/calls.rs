//! Messages to the guest and back, each in two parts of which the second comes while the guest looks at the first: none may
//! stall. `BELLJAR_TEST_MESSAGES` sends more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::{Duration, Instant};

use belljar_vmm::PodVm;
use common::{machine, options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn no_message_stalls() {
    let messages: u32 = std::env::var("BELLJAR_TEST_MESSAGES").map_or(2_000, |n| n.parse().unwrap());
    let mut vm = PodVm::start(&machine("echo"), options()).await.unwrap();
    let mut port = vm.take_probe_port().unwrap();
    let began = Instant::now();
    let mut bytes = [0; 8];
    for n in 0..messages {
        let text = format!("{n:08}");
        port.write_all(&text.as_bytes()[..4]).await.unwrap();
        let pause = Duration::from_nanos(u64::from(n).wrapping_mul(2_654_435_761) % 150_000);
        let now = Instant::now();
        while now.elapsed() < pause {
            std::hint::spin_loop();
        }
        port.write_all(&text.as_bytes()[4..]).await.unwrap();
        let answer = tokio::time::timeout(LIMIT, port.read_exact(&mut bytes)).await;
        let answer = answer.unwrap_or_else(|_| panic!("message {n} stalled after {:?}", began.elapsed()));
        answer.unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
    println!("{messages} messages in {:?}", began.elapsed());
    vm.kill().await;
}
