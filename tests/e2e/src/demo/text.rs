//! Long text on a terminal.

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
