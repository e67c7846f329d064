//! The words of the kernel command line that the agent reads. The command line is measured at launch.

use belljar_guest_api::names::DEBUG_WORD;

/// What the agent reads from `/proc/cmdline`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// The word `belljar.debug` is there: the agent may write to the console.
    pub debug: bool,
}

impl Cmdline {
    /// Reads the words before a lone `--`, which ends the kernel's own parameters
    /// (Documentation/admin-guide/kernel-parameters.rst). Quoted values are skipped as one word.
    pub fn parse(line: &str) -> Self {
        let mut cmdline = Self::default();
        let mut quoted = false;
        for word in line.split(|c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        }) {
            match word {
                "--" => break,
                DEBUG_WORD => cmdline.debug = true,
                _ => {}
            }
        }
        cmdline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_a_word_of_its_own() {
        assert!(Cmdline::parse("console=hvc0 quiet belljar.debug\n").debug);
        assert!(!Cmdline::parse("console=hvc0 quiet belljar.debugs\n").debug);
        assert!(!Cmdline::parse("console=hvc0 belljar.debug=1\n").debug);
        assert!(!Cmdline::parse("quiet -- belljar.debug").debug);
        assert!(!Cmdline::parse("x=\"a belljar.debug b\"").debug);
        assert!(Cmdline::parse("x=\"a b\" belljar.debug").debug);
    }
}
