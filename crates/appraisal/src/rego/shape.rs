//! What a policy may look like, seen in its syntax tree before it runs: it calls what is offered, no rule needs itself, and
//! rules do not need each other too deeply. The engine evaluates a rule inside of the one that needs it, on the stack of
//! the thread; a rule that needs itself would end the process.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{RegoError, bounded};
use crate::text;

/// Builtins that are offered beside those of [`bounded`]: their results depend on nothing but their arguments, and are
/// not much longer. What is not in these lists is refused.
const OFFERED: &[&str] = &[
    "abs",
    "all",
    "any",
    "array.reverse",
    "array.slice",
    "base64.decode",
    "base64.encode",
    "base64.is_valid",
    "base64url.decode",
    "base64url.encode",
    "base64url.encode_no_pad",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "format_int",
    "hex.decode",
    "hex.encode",
    "indexof",
    "indexof_n",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "json.filter",
    "json.is_valid",
    "json.remove",
    "json.unmarshal",
    "lower",
    "max",
    "min",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.subset",
    "object.union",
    "object.union_n",
    "product",
    "regex.find_n",
    "regex.is_valid",
    "regex.match",
    "regex.split",
    "round",
    "sort",
    "split",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.reverse",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "units.parse",
    "units.parse_bytes",
    "upper",
];
/// Deepest chain of rules that need each other, as levels of the syntax tree. A level takes about 3 kB of the stack in an
/// unoptimised build; upstream's default policy has 71.
const MAX_DEPTH: usize = 400;

/// Most work of the parser, in bytes of text, each counted as often as it is read. The parser tries an array before it tries
/// a comprehension, and so on, for every opening bracket inside of it again: each level of `[` and `{` doubles the work.
/// Upstream's default policy has 10,000, ours in Rego 16,000.
const MAX_WORK: u64 = 2 * 1024 * 1024;

/// Checks a policy's text before it is parsed: its brackets are not nested so deeply that the parser would not come to an
/// end.
pub(super) fn check_text(policy: &str) -> Result<(), RegoError> {
    let compile = |why: &str| RegoError::Compile(why.to_owned());
    let mut characters = policy.chars();
    let (mut work, mut depth) = (0_u64, 0_u32);
    while let Some(character) = characters.next() {
        match character {
            '[' | '{' => depth = depth.saturating_add(1),
            ']' | '}' => depth = depth.saturating_sub(1),
            '#' => {
                characters.by_ref().find(|character| *character == '\n');
            }
            '"' => loop {
                match characters.next() {
                    Some('"') => break,
                    Some('\\') => {
                        characters.next();
                    }
                    Some('\0') | None => return Err(compile("it has a string without an end")),
                    Some(_) => {}
                }
            },
            '`' => {
                let end = characters.by_ref().find(|character| *character == '`');
                end.ok_or_else(|| compile("it has a string without an end"))?;
            }
            _ => {}
        }
        work = work.saturating_add(1_u64.checked_shl(depth).unwrap_or(u64::MAX));
        if work > MAX_WORK {
            return Err(compile("its brackets are nested too deeply"));
        }
    }
    Ok(())
}

/// Checks a policy's syntax tree, as the engine writes it.
pub(super) fn check(ast: &str) -> Result<(), RegoError> {
    let compile = |why: String| RegoError::Compile(why);
    // The parser of JSON refuses what is nested more than 128 levels.
    let tree: Value = serde_json::from_str(ast).map_err(|_| compile("it is nested too deeply".to_owned()))?;
    let modules = tree.as_array().map(Vec::as_slice).unwrap_or_default();
    let [module] = modules else { return Err(compile("it is no single module".to_owned())) };
    let module = module.get("ast").unwrap_or(module);
    imports(module)?;
    let rules = Rules::read(module)?;
    rules.calls()?;
    rules.depth()
}

fn imports(module: &Value) -> Result<(), RegoError> {
    for import in module.get("imports").and_then(Value::as_array).into_iter().flatten() {
        let path = import.get("refr").map(Reference::of).unwrap_or_default();
        let own = path.root.as_deref() == Some("data") && path.members.first() != Some(&Some("reference".to_owned()));
        if own {
            return Err(RegoError::Compile("it imports data; write data.… where it is used".to_owned()));
        }
    }
    Ok(())
}

/// The path of a reference: `data.policy["x"].y`.
#[derive(Default)]
struct Reference {
    /// The variable that it starts with.
    root: Option<String>,
    /// Its members; `None` for one that is computed.
    members: Vec<Option<String>>,
}

impl Reference {
    fn of(node: &Value) -> Self {
        let mut members = Vec::new();
        let mut node = node;
        loop {
            if let Some(dot) = node.get("RefDot") {
                let name =
                    dot.get("field").and_then(Value::as_array).and_then(|field| field.last()).and_then(Value::as_str);
                members.push(name.map(str::to_owned));
                node = dot.get("refr").unwrap_or(&Value::Null);
            } else if let Some(bracket) = node.get("RefBrack") {
                let name =
                    bracket.get("index").and_then(|index| index.get("String")).and_then(|text| text.get("value"));
                members.push(name.and_then(Value::as_str).map(str::to_owned));
                node = bracket.get("refr").unwrap_or(&Value::Null);
            } else {
                break;
            }
        }
        members.reverse();
        Self { root: variable(node).map(str::to_owned), members }
    }

    /// The name as it is called; `None` for one that is computed.
    fn name(&self) -> Option<String> {
        let members: Option<Vec<&str>> = self.members.iter().map(|member| member.as_deref()).collect();
        let root = self.root.as_deref()?;
        Some(std::iter::once(root).chain(members?).collect::<Vec<_>>().join("."))
    }
}

fn variable(node: &Value) -> Option<&str> {
    node.get("Var")?.get("value")?.as_str()
}

/// Rules by name: the names that each mentions, whatever it means by them, and how deep it is.
struct Rules {
    rules: BTreeMap<String, Rule>,
    calls: BTreeSet<String>,
}

#[derive(Default)]
struct Rule {
    mentions: BTreeSet<String>,
    /// It mentions `data` in a way that may be any rule.
    any: bool,
    depth: usize,
}

impl Rules {
    fn read(module: &Value) -> Result<Self, RegoError> {
        let mut all = Self { rules: BTreeMap::new(), calls: BTreeSet::new() };
        for node in module.get("rules").and_then(Value::as_array).into_iter().flatten() {
            let head = head_reference(node);
            let Some(name) = head.and_then(|head| Reference::of(head).root) else {
                return Err(RegoError::Compile("it has a rule without a name".to_owned()));
            };
            let mut rule = all.rules.remove(&name).unwrap_or_default();
            rule.depth = rule.depth.max(all.walk(node, head, &mut rule));
            all.rules.insert(name, rule);
        }
        Ok(all)
    }

    /// Takes in what a node mentions, and gives how deep it is. Of the head, only what is computed is a mention.
    fn walk(&mut self, node: &Value, head: Option<&Value>, rule: &mut Rule) -> usize {
        if head.is_some_and(|head| std::ptr::eq(head, node)) {
            let inner = ["RefDot", "RefBrack"].iter().find_map(|kind| node.get(kind));
            let Some(inner) = inner else { return 1 };
            let index = inner.get("index").map_or(0, |index| self.walk(index, None, rule));
            let rest = inner.get("refr").map_or(0, |rest| self.walk(rest, Some(rest), rule));
            return 1 + index.max(rest);
        }
        if let Some(call) = node.get("Call")
            && let Some(function) = call.get("fcn")
        {
            match Reference::of(function).name() {
                Some(name) => {
                    self.calls.insert(name);
                }
                None => rule.any = true,
            }
        }
        if node.get("RefDot").is_some() || node.get("RefBrack").is_some() || node.get("Var").is_some() {
            let path = Reference::of(node);
            if let Some(root) = path.root {
                if root == "data" {
                    match (path.members.first(), path.members.get(1)) {
                        (Some(Some(first)), Some(Some(second))) if first == "policy" => {
                            rule.mentions.insert(second.clone());
                        }
                        (Some(Some(first)), _) if first != "policy" => {}
                        // Part of a longer reference, which is looked at by itself.
                        (None, _) | (Some(Some(_)), None) => {}
                        _ => rule.any = true,
                    }
                } else {
                    rule.mentions.insert(root);
                }
            }
        }
        let below = match node {
            Value::Object(members) => {
                members.iter().filter(|(name, _)| *name != "span").map(|(_, value)| value).collect::<Vec<_>>()
            }
            Value::Array(items) => items.iter().collect(),
            _ => return 0,
        };
        1 + below.into_iter().map(|node| self.walk(node, head, rule)).max().unwrap_or(0)
    }

    /// Every call is of a function of the policy or of a builtin that is offered.
    fn calls(&self) -> Result<(), RegoError> {
        let bounded: BTreeSet<&str> = bounded::names().into_iter().map(|(name, _)| name).collect();
        for call in &self.calls {
            let own = call.strip_prefix("data.policy.").unwrap_or(call);
            let known =
                self.rules.contains_key(own) || OFFERED.contains(&call.as_str()) || bounded.contains(call.as_str());
            if !known {
                return Err(RegoError::Compile(format!("it calls {}, which is not offered", text::clean(call, 80))));
            }
        }
        Ok(())
    }

    /// The longest chain of needs; none may come back to where it was.
    fn depth(&self) -> Result<(), RegoError> {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.rules.keys() {
            self.depth_of(name, &mut Vec::new(), &mut known)?;
        }
        Ok(())
    }

    fn depth_of<'a>(
        &'a self,
        name: &'a str,
        open: &mut Vec<&'a str>,
        known: &mut BTreeMap<&'a str, usize>,
    ) -> Result<usize, RegoError> {
        if let Some(depth) = known.get(name) {
            return Ok(*depth);
        }
        let Some(rule) = self.rules.get(name) else { return Ok(0) };
        if open.contains(&name) {
            let name = text::clean(name, 80);
            return Err(RegoError::Compile(format!("rule {name} needs itself, or has a variable of a rule's name")));
        }
        if rule.any {
            let name = text::clean(name, 80);
            return Err(RegoError::Compile(format!("rule {name} refers to data by a computed name")));
        }
        open.push(name);
        if open.len() > MAX_DEPTH {
            return Err(too_deep());
        }
        let mut below = 0;
        for mentioned in &rule.mentions {
            if self.rules.contains_key(mentioned) {
                below = below.max(self.depth_of(mentioned, open, known)?);
            }
        }
        open.pop();
        let depth = below + rule.depth;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        known.insert(name, depth);
        Ok(depth)
    }
}

fn too_deep() -> RegoError {
    RegoError::Compile("rules need each other too deeply".to_owned())
}

/// The reference in the head of a rule.
fn head_reference(node: &Value) -> Option<&Value> {
    if let Some(default) = node.get("Default") {
        return default.get("refr");
    }
    let head = node.get("Spec")?.get("head")?;
    ["Compr", "Set", "Func"].iter().find_map(|kind| head.get(kind)?.get("refr"))
}
