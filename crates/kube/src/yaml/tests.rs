use super::*;
use proptest::prelude::*;

fn one(text: &str) -> Node {
    let mut documents = read(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn refused(text: &str) -> YamlError {
    read(text).unwrap_err()
}

#[test]
fn documents_keep_order_and_lines() {
    let documents = read("# first\nb: 1\na:\n- x\n---\n---\nc: {d: [yes, 0644]}\n").unwrap();
    assert_eq!(write(&documents), "b: 1\na:\n- x\n---\nc:\n  d:\n  - true\n  - 420\n");
    assert_eq!(documents[0].at(&["a"]).unwrap().line, 4);
    assert_eq!(documents[1].at(&["c", "d"]).unwrap().line, 7);
    assert_eq!(read("").unwrap(), []);
}

#[test]
fn json_is_yaml() {
    let node = one(r#"{"a": {"b": [1, "1", null, true, 0.5]}, "c": "é\n"}"#);
    assert_eq!(write(&[node]), "a:\n  b:\n  - 1\n  - \"1\"\n  - null\n  - true\n  - 0.5\nc: \"é\\n\"\n");
}

#[test]
fn strings_stay_strings() {
    for text in [
        "yes",
        "1",
        "0x1f",
        "~",
        "",
        "a: b",
        "- x",
        "#c",
        "a #c",
        "1:30",
        "2001-01-01",
        "*x",
        "&x",
        "!x",
        "{",
        "[",
        "a:",
        " a",
        "a ",
        "|",
        "'",
        "\"",
        "é",
        "\u{85}",
        "\u{2028}",
        "😀",
        "a\tb",
        "x\ny",
        "x\ny\n",
        "x\n\n y\n\n",
        " x\ny",
        "x \ny",
        "\n",
        "---",
        "...",
        "--- a",
        "? a",
        "a,b",
        "<<",
        "=",
        "null",
        ".5",
        "089",
        "\u{feff}x",
        "x\r\ny",
        "x\n\ty",
        "%a",
        "@a",
        "`a",
    ] {
        for node in [
            Node { line: 0, value: Value::Text(text.to_owned()) },
            Node { line: 0, value: Value::List(vec![Node { line: 0, value: Value::Text(text.to_owned()) }]) },
            Node {
                line: 0,
                value: Value::Map(Map(vec![(text.to_owned(), Node { line: 0, value: Value::Text(text.to_owned()) })])),
            },
        ] {
            let written = write(std::slice::from_ref(&node));
            assert_eq!(read(&written).as_deref(), Ok([node].as_slice()), "{text:?} became {written:?}");
        }
    }
}

#[test]
fn what_readers_disagree_about_is_refused() {
    assert_eq!(refused("a: 1\na: 2\n"), YamlError::DuplicateKey { line: 2, key: "a".into() });
    assert!(read("a: 1\nb: 2\n").is_ok());
    assert_eq!(refused("a: 089"), YamlError::Ambiguous { line: 1, text: "089".into() });
    assert!(read("a: '089'").is_ok());
    assert_eq!(refused("on: 1"), YamlError::Key { line: 1, found: "boolean" });
    assert!(read("'on': 1").is_ok());
    assert_eq!(refused("1: a"), YamlError::Key { line: 1, found: "number" });
    assert_eq!(refused("[a]: b"), YamlError::Key { line: 1, found: "list" });
    assert_eq!(
        refused("a: &x {b: 1}\nc:\n  <<: *x\n"),
        YamlError::NotRead { line: 3, what: "a merge key `<<`".into() }
    );
    assert_eq!(write(&[one("a: &x {b: 1}\nc: *x\n")]), "a:\n  b: 1\nc:\n  b: 1\n");
    assert!(matches!(refused("a: !!binary aGk="), YamlError::NotRead { line: 1, .. }));
    assert!(matches!(refused("a: !Ref x"), YamlError::NotRead { line: 1, .. }));
    assert_eq!(one("a: !!str 1").at(&["a"]).unwrap().text(), Some("1"));
    assert!(matches!(refused("a: [b"), YamlError::Syntax { .. }));
    assert!(matches!(refused("a: &x [*x]"), YamlError::NotRead { .. } | YamlError::Syntax { .. }));
}

#[test]
fn bounds_hold() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(read(&deep(MAX_DEPTH)).is_ok());
    assert_eq!(refused(&deep(MAX_DEPTH + 2)), YamlError::TooDeep { line: 1 });
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..8 {
        let previous = level - 1;
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{previous}"); 10].join(", ")));
    }
    assert!(matches!(refused(&laughs), YamlError::TooMany { .. }));
    let mut deeper = "a0: &a0 []\n".to_owned();
    for level in 1..80 {
        deeper.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(matches!(refused(&deeper), YamlError::TooDeep { .. }));
    let long = format!("a: {}", "x".repeat(MAX_TEXT));
    assert_eq!(refused(&long), YamlError::TooLong(long.len()));
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        any::<String>().prop_map(Value::Text),
        "[a-z0-9:#&*!|>'\"%@` \n\t{}\\[\\],?=~.+_-]{0,12}".prop_map(Value::Text),
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        let node = inner.prop_map(|value| Node { line: 0, value });
        prop_oneof![
            proptest::collection::vec(node.clone(), 0..4).prop_map(Value::List),
            proptest::collection::btree_map("[a-zA-Z0-9 :#~.\n-]{0,6}", node, 0..4)
                .prop_map(|map| Value::Map(Map(map.into_iter().collect()))),
        ]
    });
    value.prop_map(|value| Node { line: 0, value })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(node in node()) {
        let written = write(std::slice::from_ref(&node));
        let expected = if node.value == Value::Null { vec![] } else { vec![node] };
        prop_assert_eq!(read(&written), Ok(expected), "{}", written);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "([a-z0-9:#&*!|>'\"%@` \n\t{}\\[\\],?=~.+_-]|\\PC){0,80}") {
        fuzz(text.as_bytes());
    }
}
