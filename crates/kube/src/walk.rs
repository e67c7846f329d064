//! Reading a manifest field by field. A mapping is emptied key by key, and whatever is left when it goes out of scope is a
//! problem with its full path: no field can be forgotten in silence.

use std::cell::RefCell;
use std::fmt::Display;

use crate::error::{MAX_PROBLEMS, Problem, Reason, cut};
use crate::yaml::{Node, Value};

/// Collects the problems of one object.
pub(crate) struct Report {
    object: String,
    problems: RefCell<Vec<Problem>>,
}

impl Report {
    pub(crate) fn new(object: String) -> Self {
        Self { object, problems: RefCell::new(Vec::new()) }
    }

    pub(crate) fn push(&self, line: usize, path: &str, reason: Reason) {
        let mut problems = self.problems.borrow_mut();
        let problem = Problem { line, object: self.object.clone(), path: path.to_owned(), reason };
        if problems.len() < MAX_PROBLEMS && !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    pub(crate) fn take(&self) -> Vec<Problem> {
        let mut problems = self.problems.take();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(crate) struct At<'a> {
    pub(crate) report: &'a Report,
    pub(crate) path: String,
    pub(crate) node: &'a Node,
}

impl<'a> At<'a> {
    pub(crate) fn problem(&self, reason: Reason) {
        self.report.push(self.node.line, &self.path, reason);
    }

    /// Belljar does not do this: why, and what to do instead.
    pub(crate) fn refuse(&self, why: impl Into<String>) {
        self.problem(Reason::NotHonoured(why.into()));
    }

    pub(crate) fn malformed(&self, expected: impl Into<String>, found: impl Display) {
        self.problem(Reason::Malformed { expected: expected.into(), found: cut(&found.to_string()) });
    }

    fn wrong(&self, expected: &'static str) {
        self.problem(Reason::WrongType { expected, found: self.node.value.kind() });
    }

    pub(crate) fn text(&self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.wrong("string");
                None
            }
        }
    }

    /// A string that is one of few.
    pub(crate) fn word(&self, allowed: &[&str]) -> Option<String> {
        let text = self.text()?;
        if allowed.contains(&text.as_str()) {
            return Some(text);
        }
        self.malformed(format!("one of {}", allowed.join(", ")), text);
        None
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong("boolean");
                None
            }
        }
    }

    pub(crate) fn integer(&self, minimum: i64, maximum: i64) -> Option<i64> {
        match self.node.value {
            Value::Integer(number) if (minimum..=maximum).contains(&number) => Some(number),
            Value::Integer(number) => {
                self.malformed(format!("{minimum} to {maximum}"), number);
                None
            }
            _ => {
                self.wrong("number");
                None
            }
        }
    }

    /// An integer that fits into `T`.
    pub(crate) fn number<T: TryFrom<i64>>(&self, minimum: i64, maximum: i64) -> Option<T> {
        T::try_from(self.integer(minimum, maximum)?).ok()
    }

    pub(crate) fn list(&self) -> Vec<At<'a>> {
        match &self.node.value {
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(index, node)| At { report: self.report, path: format!("{}[{index}]", self.path), node })
                .collect(),
            _ => {
                self.wrong("list");
                Vec::new()
            }
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(At::text).collect()
    }

    /// Opens a mapping; anything else is a problem and reads as an empty one.
    pub(crate) fn fields(&self) -> Fields<'a> {
        let rest = match &self.node.value {
            Value::Map(map) => map.iter().collect(),
            _ => {
                self.wrong("mapping");
                Vec::new()
            }
        };
        Fields { at: self.clone(), rest }
    }

    /// All keys and values of a mapping whose keys are the user's.
    pub(crate) fn entries(&self) -> Vec<(String, At<'a>)> {
        let mut fields = self.fields();
        let rest = std::mem::take(&mut fields.rest);
        rest.into_iter().map(|(key, node)| (key.to_owned(), fields.child(key, node))).collect()
    }

    /// A mapping of strings to strings.
    pub(crate) fn strings(&self) -> Vec<(String, String)> {
        self.entries().into_iter().filter_map(|(key, at)| Some((key, at.text()?))).collect()
    }
}

/// A mapping that is being emptied. What is left when it is dropped is reported.
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    rest: Vec<(&'a str, &'a Node)>,
}

impl<'a> Fields<'a> {
    fn child(&self, key: &str, node: &'a Node) -> At<'a> {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let path = match (self.at.path.is_empty(), plain) {
            (true, _) => cut(key),
            (false, true) => format!("{}.{key}", self.at.path),
            (false, false) => format!("{}['{}']", self.at.path, cut(key)),
        };
        At { report: self.at.report, path, node }
    }

    /// Takes a field out. Null is as good as absent, as for Kubernetes.
    pub(crate) fn take(&mut self, key: &str) -> Option<At<'a>> {
        let index = self.rest.iter().position(|(name, _)| *name == key)?;
        let (_, node) = self.rest.remove(index);
        (node.value != Value::Null).then(|| self.child(key, node))
    }

    /// Takes out a field that must be there.
    pub(crate) fn need(&mut self, key: &str, what: &str) -> Option<At<'a>> {
        let found = self.take(key);
        if found.is_none() {
            self.missing(key, what);
        }
        found
    }

    pub(crate) fn missing(&self, key: &str, what: &str) {
        let path = format!("{}.{key}", self.at.path);
        self.at.report.push(self.at.node.line, path.trim_start_matches('.'), Reason::Missing(what.to_owned()));
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        self.take(key)?.text()
    }

    pub(crate) fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key)?.flag()
    }

    /// Takes out fields that are not for Belljar to honour: the cluster's business.
    pub(crate) fn pass(&mut self, keys: &[&str]) {
        self.rest.retain(|(key, _)| !keys.contains(key));
    }

    /// Refuses fields by a table of names and reasons. False, null and empty values say nothing and are fine.
    pub(crate) fn refuse(&mut self, table: &[(&str, &str)]) {
        for (key, why) in table {
            let Some(at) = self.take(key) else { continue };
            let says_nothing = match &at.node.value {
                Value::Bool(value) => !value,
                Value::List(list) => list.is_empty(),
                Value::Map(map) => map.iter().next().is_none(),
                _ => false,
            };
            if !says_nothing {
                at.refuse(*why);
            }
        }
    }

    /// Forgets the rest, because a problem was told already.
    pub(crate) fn forget(mut self) {
        self.rest.clear();
    }

    /// The keys that are left.
    pub(crate) fn left(&self) -> Vec<&'a str> {
        self.rest.iter().filter(|(_, node)| node.value != Value::Null).map(|(key, _)| *key).collect()
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        for (key, node) in std::mem::take(&mut self.rest) {
            if node.value != Value::Null {
                self.child(key, node).problem(Reason::Unknown);
            }
        }
    }
}
