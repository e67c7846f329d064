//! Small parts of sentences.

use crate::model::{HostType, Resolver, Restart, User, Volume, VolumeMount};

pub(crate) fn user(user: &User) -> String {
    let mut text = match &user.name {
        Some(name) => format!("user {name}, as the image's own user list defines it"),
        None => format!("user {}, group {}", user.uid, user.gid),
    };
    if !user.additional_gids.is_empty() {
        let gids: Vec<String> = user.additional_gids.iter().map(u32::to_string).collect();
        text.push_str(&format!(" and also groups {}", gids.join(", ")));
    }
    text
}

/// A command so that a person can read it and a shell would split it the same way.
pub(crate) fn command(args: &[String]) -> String {
    let plain =
        |arg: &str| !arg.is_empty() && arg.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b));
    let quote = |arg: &String| {
        if plain(arg) { arg.clone() } else { format!("'{}'", visible(arg).replace('\'', "'\\''")) }
    };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Text without control characters, and without characters that change the order in which it is read.
pub(crate) fn visible(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if hidden(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `1 CPU`, `0.5 CPUs`, `2.25 CPUs`.
pub(crate) fn cpus(millis: u64) -> String {
    let fraction = format!("{:03}", millis % 1000);
    match (millis, fraction.trim_end_matches('0')) {
        (1000, _) => "1 CPU".to_owned(),
        (_, "") => format!("{} CPUs", millis / 1000),
        (_, fraction) => format!("{}.{fraction} CPUs", millis / 1000),
    }
}

/// `64 MiB`, or bytes where no unit fits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes.is_multiple_of(*unit) && bytes > 0) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

/// A value from the host: its type in words, as in "chooses …".
pub(crate) fn kind(kind: &HostType) -> String {
    match kind {
        HostType::Any => "anything".to_owned(),
        other => other.in_words(),
    }
}

/// A fixed resolver.
pub(crate) fn resolver(resolver: &Resolver) -> String {
    let Resolver { nameservers, searches, options } = resolver;
    let mut text = nameservers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    for (name, values) in [("search", searches), ("options", options)] {
        if !values.is_empty() {
            text.push_str(&format!("; {name} {}", values.join(" ")));
        }
    }
    text
}

/// What a restart policy lets the host do.
pub(crate) fn restart(restart: Restart) -> &'static str {
    match restart {
        Restart::Never => "is never started again",
        Restart::OnFailure => "may be started again by the host when it has failed",
        Restart::Always => "may be started again by the host whenever it has ended",
    }
}

/// What appears at a mount point.
pub(crate) fn mount(mount: &VolumeMount, volume: Option<&Volume>) -> String {
    let VolumeMount { volume: name, path, sub_path, read_only } = mount;
    let part = sub_path.as_ref().map(|path| format!("{} of ", visible(path))).unwrap_or_default();
    let may = if volume.is_some_and(Volume::writable) && !read_only {
        "and may write there"
    } else {
        "and cannot write there"
    };
    format!("sees {part}the volume {name} at {} {may}", visible(path))
}

/// All of them with commas between, or the first few and how many more.
pub(crate) fn few(items: impl IntoIterator<Item = String>, most: usize) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    let more = items.len().saturating_sub(most);
    if more > 1 {
        items.truncate(most);
        items.push(format!("and {more} more"));
    }
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_said_as_people_say_them() {
        assert_eq!(cpus(1000), "1 CPU");
        assert_eq!(cpus(500), "0.5 CPUs");
        assert_eq!(cpus(2250), "2.25 CPUs");
        assert_eq!(cpus(16_000), "16 CPUs");
    }
}
