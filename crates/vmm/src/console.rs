//! The guest's console: a bounded tail in memory (`docs/adr/0006-console.md`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of console output that are kept.
pub const CONSOLE_BYTES: usize = 64 * 1024;
/// Lines that an error shows.
pub const LAST_LINES: usize = 12;
/// Bytes of a line that an error shows.
const LINE_BYTES: usize = 200;
/// How Linux begins the line that names the cause of a panic (`kernel/panic.c`).
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The last [`CONSOLE_BYTES`] bytes that the guest wrote to its console. The guest decides what stands in it: show it as
/// untrusted text only.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// Appends what the guest wrote; the oldest bytes go.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.get(bytes.len().saturating_sub(CONSOLE_BYTES)..).unwrap_or_default();
        let over = (ring.len() + bytes.len()).saturating_sub(CONSOLE_BYTES);
        ring.drain(..over);
        ring.extend(bytes);
    }

    /// The last [`LAST_LINES`] non-empty lines, printable and bounded. Of a kernel panic, the line that names its cause
    /// comes first, as a long trace follows it.
    pub fn last_lines(&self) -> LastLines {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = ring.make_contiguous();
        let lines = text.rsplit(|b| *b == b'\n').map(|line| printable(line, LINE_BYTES));
        let mut lines: Vec<String> = lines.filter(|line| !line.is_empty()).take(LAST_LINES).collect();
        if let Some(cause) = memchr::memmem::rfind(text, PANIC) {
            let cause = text.get(cause..).unwrap_or_default().split(|b| *b == b'\n').next().unwrap_or_default();
            let cause = printable(cause, LINE_BYTES);
            if !lines.iter().any(|line| line.contains(&cause)) {
                lines.pop();
                lines.push(cause);
            }
        }
        lines.reverse();
        LastLines(lines)
    }
}

/// The last lines of a console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastLines(
    /// Printable lines, oldest first.
    pub Vec<String>,
);

impl std::fmt::Display for LastLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("the guest printed nothing"),
            lines => write!(f, "last guest lines:\n  {}", lines.join("\n  ")),
        }
    }
}

/// `bytes` as one line without control characters, of at most `most` bytes.
pub(crate) fn printable(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(4 * most)).unwrap_or_default());
    let mut line = String::new();
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > most {
            break;
        }
        line.push(c);
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_bounded_and_keeps_the_newest() {
        let console = Console::default();
        for n in 0..20_000 {
            console.push(format!("line {n}\r\n").as_bytes());
        }
        console.push(b"\x1b[31mred\x07\n\n");
        let lines = console.last_lines().0;
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[LAST_LINES - 2], "line 19999");
        assert_eq!(lines[LAST_LINES - 1], "[31mred");
        assert!(console.0.lock().unwrap().len() <= CONSOLE_BYTES);
    }

    #[test]
    fn the_cause_of_a_panic_is_shown_before_its_trace() {
        let console = Console::default();
        console.push(b"[ 1.0] Kernel panic - not syncing: no init\r\n");
        assert_eq!(console.last_lines().0, ["[ 1.0] Kernel panic - not syncing: no init"]);
        console.push("[ 1.1]  trace\r\n".repeat(100).as_bytes());
        let lines = console.last_lines().0;
        assert_eq!((lines.len(), lines[0].as_str()), (LAST_LINES, "Kernel panic - not syncing: no init"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_make_printable_lines(chunks in proptest::collection::vec(proptest::collection::vec(0u8.., 0..300), 0..10)) {
            let console = Console::default();
            for chunk in &chunks {
                console.push(chunk);
            }
            for line in console.last_lines().0 {
                assert!(line.len() <= LINE_BYTES && !line.chars().any(char::is_control));
            }
        }
    }
}
