//! Version numbers, as far as they are compared here.

use std::fmt;

use crate::machine::Machine;

/// Major, minor and patch number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first thing in `text` that looks like a version: digits, a dot, digits, perhaps a dot and digits.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        text.split_ascii_whitespace().find_map(|word| {
            let word = word.trim_start_matches(['v', '(']);
            let mut numbers = word.splitn(3, '.');
            let major = numbers.next()?.parse().ok()?;
            let minor = leading(numbers.next()?)?;
            let patch = numbers.next().and_then(leading).unwrap_or(0);
            Some(Self(major, minor, patch))
        })
    }

    pub(crate) fn of_kernel(machine: &dyn Machine) -> Option<Self> {
        Self::find(&machine.read("/proc/sys/kernel/osrelease")?)
    }
}

/// The number that `text` begins with.
fn leading(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)?;
        if self.2 == 0 { Ok(()) } else { write!(f, ".{}", self.2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_of_real_programs() {
        let cases = [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)", Some(Version(10, 0, 2))),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", Some(Version(1, 6, 20))),
            ("containerd github.com/containerd/containerd/v2 v2.1.9 abc", Some(Version(2, 1, 9))),
            ("6.12.95+deb12-cloud-amd64", Some(Version(6, 12, 95))),
            ("6.18.44-fc", Some(Version(6, 18, 44))),
            ("7.3-rc1", Some(Version(7, 3, 0))),
            ("no number", None),
            ("99999999999.1", None),
            ("", None),
        ];
        for (text, version) in cases {
            assert_eq!(Version::find(text), version, "{text}");
        }
        assert!(Version(6, 9, 0) < Version(6, 11, 0) && Version(6, 11, 0) < Version(7, 0, 0));
        assert_eq!(Version(6, 11, 0).to_string(), "6.11");
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in ".{0,100}") {
            let _ = Version::find(&text);
        }
    }
}
