//! `$(NAME)` in commands, arguments and values, as the kubelet expands it (`k8s.io/kubernetes/third_party/forked/golang/expansion`):
//! `$$` is a `$`, a reference that nothing defines stays as it is.

use std::borrow::Cow;

/// Expands `text`. `value` gives what a name stands for; `None` leaves the reference, an error ends it.
pub(crate) fn expand<'v, E>(
    text: &str,
    mut value: impl FnMut(&str) -> Result<Option<Cow<'v, str>>, E>,
) -> Result<String, E> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name)? {
                Some(found) => out.push_str(&found),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_the_kubelet_does() {
        let expanded =
            |text: &str| expand::<()>(text, |name| Ok((name == "A").then_some(Cow::Borrowed("value")))).unwrap();
        for (text, result) in [
            ("$(A)", "value"),
            ("x$(A)y$(A)", "xvalueyvalue"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$value"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("a$", "a$"),
            ("$(date)", "$(date)"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
            ("", ""),
        ] {
            assert_eq!(expanded(text), result, "{text}");
        }
        assert_eq!(expand("$(A)", |_| Err::<Option<Cow<'_, str>>, _>(7)), Err(7));
    }
}
