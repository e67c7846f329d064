//! The host's channel, with a hundred thousand messages that no honest host sends: the guest neither panics nor grows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::panic)]

use belljar_agent::service::fuzz::{METHODS, run};

/// How many messages; `BELLJAR_CHANNEL_MESSAGES` asks for another number.
const MESSAGES: usize = 100_000;
const AT_ONCE: usize = 200;

/// A small generator (xorshift64*), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const TEXTS: [&str; 22] = [
    "main",
    "first",
    "other",
    "",
    "host",
    "measured",
    "scratch",
    "empty",
    "address",
    "10.0.0.1",
    "::1",
    "..data",
    "../x",
    "a/b/c",
    "NODE",
    "LD_PRELOAD",
    "node.example",
    "DB_SERVICE_HOST",
    "/bin/check",
    "--all",
    "attested",
    "port:8080",
];
const NUMBERS: [u64; 12] = [0, 1, 2, 9, 15, 64, 65, 255, 65536, 1 << 31, u32::MAX as u64, u64::MAX];

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A message of some fields, most of them of the right kind: nearly every message begins with a name.
fn message(random: &mut Random, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if random.below(8) != 0 && depth == 0 {
        field(&mut out, 1, TEXTS[random.below(7)].as_bytes());
    }
    for _ in 0..random.below(6) {
        let number = 1 + random.below(9) as u64;
        match random.below(5) {
            0 => {
                varint(&mut out, number << 3);
                let value = NUMBERS[random.below(NUMBERS.len())];
                varint(&mut out, value);
            }
            1 | 2 => field(&mut out, number, random.of(&TEXTS).as_bytes()),
            3 if depth < 2 => {
                let inner = message(random, depth + 1);
                field(&mut out, number, &inner);
            }
            _ => {
                let data: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
                field(&mut out, number, &data);
            }
        }
    }
    // Now and then a byte is another one, or the end is missing.
    if !out.is_empty() && random.below(4) == 0 {
        let at = random.below(out.len());
        out[at] = random.next() as u8;
        out.truncate(1 + random.below(out.len()));
    }
    out
}

fn field(out: &mut Vec<u8>, number: u64, data: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_hundred_thousand_messages_of_a_hostile_host() {
    let wanted = std::env::var("BELLJAR_CHANNEL_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(MESSAGES);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut sent, mut answered, mut before) = (0, 0, 0);
    while sent < wanted {
        let mut calls = Vec::new();
        for _ in 0..AT_ONCE {
            // Shutdown ends the guest of this round, so it comes seldom.
            let last = usize::from(random.below(AT_ONCE) != 0);
            let method = random.below(METHODS.len() - last);
            let message = message(&mut random, 0);
            calls.push(method as u8);
            calls.extend_from_slice(&(message.len().min(0xffff) as u16).to_le_bytes());
            calls.extend_from_slice(&message[..message.len().min(0xffff)]);
        }
        answered += run(&calls);
        sent += AT_ONCE;
        // What is allocated once is there after some rounds.
        if sent == AT_ONCE * 20 {
            before = resident();
        }
    }
    let grown = resident().saturating_sub(before);
    println!("{sent} messages, {answered} answered without an error, {} KiB more memory", grown >> 10);
    assert!(answered > sent / 100, "only {answered} of {sent} got past the first checks");
    assert!(before == 0 || grown < 32 << 20, "{grown} bytes more after {sent} messages");
}

#[test]
fn the_largest_messages_are_bounded() {
    // A volume with the most files that fit one call of the test's format, and the longest names.
    let mut volume = Vec::new();
    field(&mut volume, 1, b"host");
    for number in 0..600 {
        let mut file = Vec::new();
        field(&mut file, 1, format!("{number}/{}", "x".repeat(80)).as_bytes());
        field(&mut volume, 2, &file);
    }
    let length = volume.len().min(0xffff);
    let mut calls = vec![3];
    calls.extend_from_slice(&(length as u16).to_le_bytes());
    calls.extend_from_slice(&volume[..length]);
    let before = resident();
    for _ in 0..5 {
        run(&calls);
    }
    assert!(resident().saturating_sub(before) < 32 << 20);
}
