/// Makes text from the other side fit for a log line or a terminal: control characters become spaces, and what
/// exceeds `max` characters is cut off with `…`.
pub fn sanitize(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for (count, c) in text.chars().enumerate() {
        if count == max {
            out.push('…');
            break;
        }
        out.push(if is_unprintable(c) { ' ' } else { c });
    }
    out
}

/// Control characters, and the format characters that reorder or hide text on a terminal.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn keeps_plain_text_and_removes_terminal_escapes() {
        assert_eq!(sanitize("refused: measurement", 100), "refused: measurement");
        assert_eq!(sanitize("a\x1b[31mb\r\nc\u{202e}d", 100), "a [31mb  c d");
    }

    #[test]
    fn cuts_at_the_bound_and_not_before() {
        assert_eq!(sanitize("äöü", 3), "äöü");
        assert_eq!(sanitize("äöüß", 3), "äöü…");
    }
}
