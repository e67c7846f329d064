//! What the person sees, line by line, and what goes wrong.

use std::fmt;
use std::time::Duration;

/// Why it did not go as it must: cause, then what to do.
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

/// A line of a step.
pub fn say(text: impl fmt::Display) {
    println!("    {text}");
}

/// `1.234 s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
