//! Bounds of what a call may carry. Both sides enforce them: a larger request is `INVALID_ARGUMENT`, a larger wait is cut.

/// Most bytes of data in one request or reply (`WriteInput`, `ReadOutput`, `TunnelRead`, `TunnelWrite`).
pub const MAX_CHUNK: usize = 64 * 1024;
/// Longest wait of a long poll, in milliseconds; a longer `timeout_ms` is cut to it.
pub const MAX_POLL_MS: u32 = 60_000;
/// Most bytes of a refusal or of an error text, in UTF-8.
pub const MAX_TEXT: usize = 1024;
/// Most bytes of a container name.
pub const MAX_NAME: usize = 128;
/// Most tunnels that the guest keeps open or waiting at one time.
pub const MAX_TUNNELS: usize = 64;
/// Most bytes of all files of one volume in a `PutVolume`.
pub const MAX_VOLUME: usize = 3 << 20;
/// Most files of one volume in a `PutVolume`.
pub const MAX_VOLUME_FILES: usize = 1024;
/// Most bytes of all values in the `env` of one `StartContainer`.
pub const MAX_ENV_BYTES: usize = 256 * 1024;
/// Most addresses, routes, name servers, search domains or options of one `ConfigureNetwork`.
pub const MAX_NETWORK_LIST: usize = 32;
/// Most processes started by `StartExec` that run or are not waited for, in the whole pod.
pub const MAX_EXECS: usize = 64;
/// Most bytes of a termination message.
pub const MAX_TERMINATION_MESSAGE: usize = 4096;
/// Bytes of the seed of a memory probe.
pub const PROBE_SEED: usize = 32;
/// Most copies of a canary that a probe keeps.
pub const MAX_PROBE_COPIES: u32 = 4096;
/// Longest grace of `Shutdown`, in milliseconds; a longer `grace_ms` is cut to it.
pub const MAX_GRACE_MS: u32 = 60_000;

/// Cuts `text` to [`MAX_TEXT`] bytes at a character border and replaces control characters by spaces, so that text of
/// the other side can stand in one line of ours.
pub fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate((0..=line.len().min(MAX_TEXT)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_line_is_bounded_and_has_no_control_character(text in any::<String>(), repeat in 1usize..200) {
            let line = one_line(&text.repeat(repeat));
            prop_assert!(line.len() <= MAX_TEXT);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }

    #[test]
    fn a_short_plain_line_stays_as_it_is() {
        assert_eq!(one_line("initdata: größer"), "initdata: größer");
        assert_eq!(one_line("a\nb\x1b[0m"), "a b [0m");
        assert_eq!(one_line(&"ü".repeat(600)).len(), 1024);
        assert_eq!(one_line(&format!("x{}", "ü".repeat(600))).len(), 1023);
    }
}
