//! Environment variables of a container, and what `$(NAME)` means in its command.

use std::borrow::Cow;
use std::collections::BTreeMap;

use belljar_contract::HostType;

use crate::beside::Source;
use crate::downward::{self, Known};
use crate::error::Reason;
use crate::expand::expand;
use crate::plan::Context;
use crate::resources::{self, Limits};
use crate::walk::At;

/// The variables of a container.
#[derive(Debug, Default)]
pub(crate) struct Env {
    pub(crate) known: BTreeMap<String, Known>,
    /// Values as written, without those of `valueFrom`: all that the kubelet knows when it expands a probe's command.
    raw: BTreeMap<String, String>,
}

/// A reference to a value that is not known beforehand.
struct FromHost(String);

impl Env {
    /// Reads `env` and `envFrom`, in the order and with the precedence of the kubelet.
    pub(crate) fn read(from: Option<At<'_>>, own: Option<At<'_>>, limits: &Limits, context: &Context<'_>) -> Self {
        let mut env = Self::default();
        for at in from.iter().flat_map(At::list) {
            env.read_from(&at, context);
        }
        for at in own.iter().flat_map(At::list) {
            env.read_one(&at, limits, context);
        }
        env
    }

    fn read_from(&mut self, at: &At<'_>, context: &Context<'_>) {
        let mut fields = at.fields();
        let prefix = fields.text("prefix").unwrap_or_default();
        let mut seen = false;
        for (key, source) in [("configMapRef", Source::ConfigMap), ("secretRef", Source::Secret)] {
            let Some(at) = fields.take(key) else { continue };
            seen = true;
            let mut reference = at.fields();
            let optional = reference.flag("optional").unwrap_or(false);
            let Some(name) = reference.need("name", "say which").and_then(|at| at.text()) else { continue };
            let Some(contents) = context.beside.find(source, context.namespace, &name) else {
                if optional && !context.is_host_provided(source, &name) {
                    at.problem(Reason::Needs(format!(
                        "is optional, and its {} {name:?} is not in the manifest: give it along, or remove the reference",
                        source.kind()
                    )));
                } else {
                    at.problem(Reason::Needs(format!(
                        "takes all keys of {} {name:?}, which is not in the manifest, so their names are not known: give it along",
                        source.kind()
                    )));
                }
                continue;
            };
            for (key, content) in contents {
                let name = format!("{prefix}{key}");
                // The kubelet leaves out what is no name of a variable.
                if is_name(&name) {
                    self.known.insert(name, of(content));
                }
            }
            context.say_measured(source, &name);
        }
        if !seen {
            fields.missing("configMapRef", "say where the variables come from");
        }
    }

    fn read_one(&mut self, at: &At<'_>, limits: &Limits, context: &Context<'_>) {
        let mut fields = at.fields();
        let Some(name) = fields.need("name", "name the variable").and_then(|at| at.text()) else {
            return fields.forget();
        };
        if !is_name(&name) {
            at.malformed("a name of printable ASCII characters without '='", &name);
            return fields.forget();
        }
        let value = fields.take("value");
        let from = fields.take("valueFrom");
        if let (Some(_), Some(from)) = (&value, &from) {
            from.refuse("a variable has either a value or valueFrom");
            return;
        }
        let known = match from {
            Some(from) => self.value_from(&from, limits, context),
            None => {
                let text = value.as_ref().map_or(Some(String::new()), At::text);
                text.and_then(|text| {
                    let at = value.as_ref().unwrap_or(at);
                    self.raw.insert(name.clone(), text.clone());
                    self.expand(&text, at).map(Known::Fixed)
                })
            }
        };
        // After a problem the name is still known, so that references to it are no further problem.
        self.known.insert(name, known.unwrap_or_else(|| Known::Fixed(String::new())));
    }

    fn value_from(&self, at: &At<'_>, limits: &Limits, context: &Context<'_>) -> Option<Known> {
        let mut fields = at.fields();
        if let Some(at) = fields.take("fieldRef") {
            let mut reference = at.fields();
            reference.take("apiVersion").map(|at| at.word(&["v1"]));
            let path = reference.need("fieldPath", "say which field")?;
            return downward::field(&path.text()?, false, context).map_err(|reason| path.problem(reason)).ok();
        }
        if let Some(at) = fields.take("resourceFieldRef") {
            return resources::field(&at, Some(limits), context).map(Known::Fixed);
        }
        for (key, source) in [("configMapKeyRef", Source::ConfigMap), ("secretKeyRef", Source::Secret)] {
            let Some(at) = fields.take(key) else { continue };
            let mut reference = at.fields();
            let optional = reference.flag("optional").unwrap_or(false);
            let name = reference.need("name", "say which object").and_then(|at| at.text());
            let key = reference.need("key", "say which key").and_then(|at| at.text());
            let (name, key) = (name?, key?);
            if let Some(contents) = context.beside.find(source, context.namespace, &name) {
                context.say_measured(source, &name);
                if let Some(content) = contents.get(&key) {
                    return Some(of(content));
                }
                let what = if optional { "is optional and" } else { "names a key that" };
                at.problem(Reason::Needs(format!(
                    "{what} is not in {} {name:?} of the manifest: add {key:?} there, or remove the variable",
                    source.kind()
                )));
                return None;
            }
            if !context.is_host_provided(source, &name) {
                at.problem(context.not_beside(source, &name));
                return None;
            }
            if optional {
                at.refuse(
                    "a variable that the host may leave out cannot be promised; remove `optional`, or give the object along",
                );
                return None;
            }
            context.warn_host(source, &name);
            return Some(Known::Host(HostType::Any));
        }
        if fields.left().is_empty() {
            fields.missing("fieldRef", "say where the value comes from");
        }
        None
    }

    /// Expands references to other variables in a text that becomes part of the contract.
    pub(crate) fn expand(&self, text: &str, at: &At<'_>) -> Option<String> {
        let found = expand(text, |name| match self.known.get(name) {
            Some(Known::Fixed(value)) => Ok(Some(Cow::Borrowed(value.as_str()))),
            Some(Known::Host(_)) => Err(FromHost(name.to_owned())),
            None if is_service(name) => Err(FromHost(name.to_owned())),
            None => Ok(None),
        });
        found
            .map_err(|FromHost(name)| {
                at.problem(Reason::Needs(format!(
                    "refers to $({name}), whose value comes from the host, so the text cannot be fixed: \
                     let the program read the variable, or write the value"
                )));
            })
            .ok()
    }

    /// Expands a probe's command as the kubelet does: with the values as they are written.
    pub(crate) fn expand_raw(&self, text: &str) -> String {
        let value = |name: &str| -> Result<_, std::convert::Infallible> {
            Ok(match (self.raw.get(name), self.known.get(name)) {
                (Some(value), _) => Some(Cow::Borrowed(value.as_str())),
                (None, Some(_)) => Some(Cow::Borrowed("")),
                (None, None) => None,
            })
        };
        match expand(text, value) {
            Ok(text) => text,
        }
    }
}

fn of(content: &crate::beside::Content) -> Known {
    match &content.text {
        Some(text) => Known::Fixed(text.clone()),
        None => Known::Host(HostType::Sha256(content.sha256.clone())),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

/// The names that Kubernetes makes for each Service; such a reference has another value in each cluster.
fn is_service(name: &str) -> bool {
    let upper = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    upper && (name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT"))
}
