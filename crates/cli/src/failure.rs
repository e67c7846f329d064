//! How a command ends when it does not end well: one line with the cause first and then what to do, and an exit code
//! that a script can rely on (DESIGN, "Command line").

use std::fmt;

/// Exit codes of `belljar`; 0 is yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A verdict was reached, and it is no.
    Refused = 1,
    /// The command line or a file that the user wrote cannot be used.
    Usage = 2,
    /// No verdict could be reached: something is missing, away or broken.
    Undecided = 3,
}

impl Exit {
    /// The process exit status.
    pub fn code(self) -> i32 {
        match self {
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Undecided => 3,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What a script sees.
    pub exit: Exit,
    /// Cause, lowercase, without full stop.
    pub cause: String,
    /// What to do about it, where there is one thing to do.
    pub hint: Option<String>,
    /// Further lines that a person wants to see (last guest output, failed checks).
    pub details: Vec<String>,
}

impl Failure {
    /// A refusal: exit code 1.
    pub fn refused(cause: impl fmt::Display) -> Self {
        Self::new(Exit::Refused, cause)
    }

    /// A mistake of the caller: exit code 2.
    pub fn usage(cause: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, cause)
    }

    /// No verdict: exit code 3.
    pub fn undecided(cause: impl fmt::Display) -> Self {
        Self::new(Exit::Undecided, cause)
    }

    /// A failure with the given exit code.
    pub fn new(exit: Exit, cause: impl fmt::Display) -> Self {
        Self { exit, cause: one_line(&cause.to_string()), hint: None, details: Vec::new() }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(one_line(&hint.to_string()));
        self
    }

    /// Adds lines below the cause.
    #[must_use]
    pub fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// Text from elsewhere (a guest, a registry) as one printable line of bounded length.
pub fn one_line(text: &str) -> String {
    const MOST: usize = 2000;
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect::<String>().trim().to_owned();
    if text.chars().nth(MOST).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_is_one_bounded_line() {
        assert_eq!(one_line("a\x1b[31mb\nc"), "a [31mb c");
        assert_eq!(one_line("plain"), "plain");
        assert_eq!(one_line(&"x".repeat(3000)).chars().count(), 2001);
    }

    #[test]
    fn a_failure_is_cause_then_hint() {
        let f = Failure::undecided("registry is away").hint("start it");
        assert_eq!(f.to_string(), "registry is away; start it");
        assert_eq!(f.exit.code(), 3);
    }
}
