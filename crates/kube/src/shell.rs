//! Splitting a command line into words, as a POSIX shell does without its expansions.

/// The words of a line; none when a quote is open at its end, or when a shell would do more than split it (`|`, `$`, `*`, …).
pub(crate) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => match rest.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        '$' | '`' => return None,
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(rest.next()?),
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '~' | '{' | '\n' => return None,
            '#' if word.is_none() => return None,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_those_of_a_shell() {
        let words = |list: &[&str]| Some(list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        for (line, expected) in [
            ("cat /etc/hosts", words(&["cat", "/etc/hosts"])),
            ("  a\tb  ", words(&["a", "b"])),
            ("sh -c 'echo $HOME | wc'", words(&["sh", "-c", "echo $HOME | wc"])),
            (r#"a "b c"d'e'"#, words(&["a", "b cde"])),
            (r#"a\ b "\"\$\n""#, words(&["a b", "\"$\\n"])),
            ("'' \"\"", words(&["", ""])),
            ("a#b", words(&["a#b"])),
            ("", words(&[])),
            ("'open", None),
            ("\"open", None),
            ("a\\", None),
            ("ls *", None),
            ("a | b", None),
            ("echo $A", None),
            ("echo \"$A\"", None),
            ("a; b", None),
            ("a # b", None),
        ] {
            assert_eq!(split(line), expected, "{line}");
        }
    }
}
