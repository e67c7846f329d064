//! Writing HTML, with no way to forget the escaping: markup is `&'static str`, everything else is text.

/// Text beyond this many characters is cut; only a contract is longer, and it has its own bound.
pub(crate) const MAX_TEXT: usize = 4096;
/// A contract beyond this many characters is cut: initdata holds no more.
pub(crate) const MAX_BLOCK: usize = 256 << 10;

#[derive(Debug, Default)]
pub(crate) struct Html(String);

impl Html {
    /// Markup that stands in this program.
    pub fn markup(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text on one line.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.escape(text, MAX_TEXT, false)
    }

    /// Text of several lines.
    pub fn block(&mut self, text: &str) -> &mut Self {
        self.escape(text, MAX_BLOCK, true)
    }

    /// A number, for text and attributes.
    pub fn number(&mut self, number: f64, decimals: usize) -> &mut Self {
        let number = if number.is_finite() { number } else { 0.0 };
        self.0.push_str(&format!("{number:.decimals$}"));
        self
    }

    /// A whole number.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.0.push_str(&count.to_string());
        self
    }

    pub fn finish(self) -> String {
        self.0
    }

    fn escape(&mut self, text: &str, most: usize, lines: bool) -> &mut Self {
        let mut rest = text.chars();
        for c in rest.by_ref().take(most) {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' if lines => self.0.push(c),
                c if deceives(c) => self.0.push_str(&format!("⟨U+{:04X}⟩", u32::from(c))),
                c => self.0.push(c),
            }
        }
        match rest.count() {
            0 => {}
            left => self.0.push_str(&format!(" … ({left} more characters)")),
        }
        self
    }
}

/// Characters that are invisible or change how their neighbours look: controls, direction marks and overrides, zero-width
/// ones, line separators, language tags, and those that are never characters.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
        || u32::from(c) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.finish()
    }

    #[test]
    fn hostile_text_is_only_text() {
        assert_eq!(text("<script>alert('x')</script>"), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;");
        assert_eq!(text("\" onload=\"x"), "&quot; onload=&quot;x");
        assert_eq!(text("&lt;"), "&amp;lt;");
        assert_eq!(text("a\u{202e}b\0c\nd"), "a⟨U+202E⟩b⟨U+0000⟩c⟨U+000A⟩d");
        assert_eq!(text("größer, 日本, ✓"), "größer, 日本, ✓");
        let mut html = Html::default();
        html.block("a\n\tb\r<");
        assert_eq!(html.finish(), "a\n\tb⟨U+000D⟩&lt;");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(text(&"x".repeat(MAX_TEXT)).len(), MAX_TEXT);
        assert!(text(&"x".repeat(MAX_TEXT + 7)).ends_with("x … (7 more characters)"));
    }

    proptest! {
        #[test]
        fn no_text_makes_markup(input in any::<String>()) {
            let html = text(&input);
            prop_assert!(!html.contains(['<', '>', '"', '\'']));
            prop_assert!(!html.contains(char::is_control));
        }
    }
}
