//! What the person sees: steps, times, tables.

use std::fmt;
use std::time::{Duration, Instant};

/// Why the demo did not go as it must: cause, then what to do.
#[derive(Debug)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Turns any error into [`Trouble`], with what was being done.
pub trait Doing<T> {
    /// `doing`: a few words, as in `cannot <doing>: <error>`.
    fn doing(self, doing: impl fmt::Display) -> Result<T, Trouble>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl fmt::Display) -> Result<T, Trouble> {
        self.map_err(|e| Trouble(format!("cannot {doing}: {e}")))
    }
}

/// The clock of the demo's steps.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    steps: Vec<(&'static str, Instant)>,
}

impl Watch {
    /// Starts it.
    pub fn start() -> Self {
        Self { began: Instant::now(), steps: Vec::new() }
    }

    /// The next step begins.
    pub fn step(&mut self, name: &'static str) {
        self.steps.push((name, Instant::now()));
        println!("\n[{}] {name}", self.steps.len());
    }

    /// The last step has ended; prints the table of all.
    pub fn end(&self) {
        let now = Instant::now();
        let ends = self.steps.iter().skip(1).map(|(_, at)| *at).chain([now]);
        println!("\nTime");
        for ((name, from), to) in self.steps.iter().zip(ends) {
            let name = name.split(':').next().unwrap_or(name);
            println!("    {:<46} {:>9}", name, seconds(to - *from));
        }
        println!("    {:<46} {:>9}", "all", seconds(now - self.began));
    }
}

/// A line of a step.
pub fn say(text: impl fmt::Display) {
    println!("    {text}");
}

/// `1.234 s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Long hexadecimal numbers cut to what an eye compares.
pub fn short_digests(text: &str) -> String {
    const LONG: usize = 32;
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().map(Some).chain([None]) {
        if let Some(c) = c.filter(char::is_ascii_hexdigit) {
            run.push(c);
            continue;
        }
        if run.len() >= LONG {
            out.extend(run.chars().take(12));
            out.push('…');
        } else {
            out.push_str(&run);
        }
        run.clear();
        out.extend(c);
    }
    out
}

/// Words broken into lines of at most `width` characters; a longer word has a line of its own.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_digests_are_cut() {
        assert_eq!(short_digests(&format!("is {}, not dead beef", "ab".repeat(16))), "is abababababab…, not dead beef");
        assert_eq!(short_digests("cafe"), "cafe");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
    }
}
