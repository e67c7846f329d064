//! Times of a broker's start and of each step of a handshake on loopback, the median of many; prints, and judges only
//! the start: `cargo bench -p belljar-broker --bench handshake`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "../tests/common/mod.rs"]
mod common;

use belljar_rcar::{Client, InitData, Tee};
use common::{DOCUMENT, URI, World};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;
/// Promise: a broker starts within this time.
const START: Duration = Duration::from_millis(10);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut times: [Vec<Duration>; 5] = Default::default();
    let starts = runtime.block_on(async {
        let world = World::new().await;
        let mut starts = Vec::new();
        for _ in 0..20 {
            let started = Instant::now();
            let broker = belljar_broker::Broker::new(belljar_broker::Config::default()).unwrap();
            let listening = broker.listen(([127, 0, 0, 1], 0)).await.unwrap();
            starts.push(started.elapsed());
            listening.shutdown().await;
        }
        for _ in 0..ROUNDS {
            let mut lap = Instant::now();
            let mut laps = Vec::new();
            let mut done = |lap: &mut Instant| {
                laps.push(lap.elapsed());
                *lap = Instant::now();
            };
            let mut client = Client::connect(world.stream().await, world.listening.pin()).await.unwrap();
            done(&mut lap);
            let report_data = client.auth(Tee::Snp).await.unwrap();
            done(&mut lap);
            let evidence = world.chip.evidence(report_data, &|_| ());
            done(&mut lap);
            client.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.unwrap();
            done(&mut lap);
            client.resource(&URI.parse().unwrap()).await.unwrap();
            done(&mut lap);
            for (all, lap) in times.iter_mut().zip(laps) {
                all.push(lap);
            }
        }
        starts
    });
    let median = |mut all: Vec<Duration>| {
        all.sort();
        all[all.len() / 2]
    };
    let start = median(starts);
    println!("{:<10} {start:>10.2?}", "start");
    let mut whole = Duration::ZERO;
    for (name, all) in ["connect", "auth", "evidence", "attest", "resource"].into_iter().zip(times) {
        let time = median(all);
        whole += time;
        println!("{name:<10} {time:>10.2?}");
    }
    println!("{:<10} {whole:>10.2?}  (client and broker on one core)", "handshake");
    // The unoptimised build is no measure.
    assert!(cfg!(debug_assertions) || start < START, "start took {start:?}; promised is less than {START:?}");
}
