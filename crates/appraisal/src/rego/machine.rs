//! Compiling and running: the only place that knows the engine.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, LimitError, PolicyLengthConfig, Value};
use serde::{Deserialize, Serialize};

use super::bounded::{self, Call};
use super::{RegoError, shape};
use crate::reference::References;
use crate::text;

/// Name of a policy's source in errors.
const SOURCE: &str = "policy.rego";
/// Longest text of an engine's error, in characters.
const MAX_ERROR: usize = 400;
/// Most look-ups that are kept for an explanation.
const MAX_LOOKUPS: usize = 256;

/// Bounds of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest text, in bytes.
    pub text: usize,
    /// Longest time of a rule that is asked for. It is looked at between two steps.
    pub time: Duration,
    /// Longest JSON of a result, in bytes.
    pub json: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { text: 256 * 1024, time: Duration::from_millis(100), json: 1024 * 1024 }
    }
}

/// A reference value that a policy asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// The name.
    pub name: String,
    /// What it was given; null for nothing.
    pub value: serde_json::Value,
}

/// A compiled policy.
#[derive(Debug)]
pub(super) struct Compiled {
    engine: Engine,
    limits: Limits,
    /// The rules that it defines, of those that were asked for.
    pub(super) rules: Vec<&'static str>,
    /// The engine with the data of the last run: data seldom change, and the engine is prepared for them anew.
    last: Mutex<Option<(Value, Engine)>>,
}

impl Compiled {
    /// Compiles a text, of which the rules of these names will be asked for.
    pub(super) fn new(text: &str, candidates: &[&'static str], limits: Limits) -> Result<Self, RegoError> {
        if text.len() > limits.text {
            return Err(RegoError::Length { found: text.len(), limit: limits.text });
        }
        let compile = |error: &dyn std::fmt::Display| RegoError::Compile(clean(error));
        shape::check_text(text)?;
        let mut engine = Engine::new();
        if let Some(max_file_bytes) = NonZeroUsize::new(limits.text) {
            engine.set_policy_length_config(PolicyLengthConfig { max_file_bytes, ..PolicyLengthConfig::default() });
        }
        let package = engine.add_policy(SOURCE.to_owned(), text.to_owned()).map_err(|error| compile(&error))?;
        if package != "data.policy" {
            return Err(RegoError::Package(text::clean(package.strip_prefix("data.").unwrap_or(&package), 80)));
        }
        shape::check(&engine.get_ast_as_json().map_err(|error| compile(&error))?)?;
        let mut rules = Vec::new();
        for rule in candidates {
            if engine.has_declared_rule_rooted_at(SOURCE, rule).map_err(|error| compile(&error))? {
                rules.push(*rule);
            }
        }
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: limits.time, check_interval: NonZeroU32::MIN });
        if let Some(first) = rules.first() {
            engine.compile_with_entrypoint(&path(first).into()).map_err(|error| compile(&error))?;
        }
        Ok(Self { engine, limits, rules, last: Mutex::default() })
    }

    /// A run with this input and data, at a time in seconds since 1970.
    pub(super) fn run(
        &self,
        input: &serde_json::Value,
        data: Option<&serde_json::Value>,
        references: &Arc<References>,
        at: u64,
    ) -> Result<Run, RegoError> {
        let mut engine = match data {
            None => self.engine.clone(),
            Some(data) => self.with_data(value(data)?)?,
        };
        let shared = Arc::new(Shared {
            references: Arc::clone(references),
            at,
            lookups: Mutex::default(),
            refusal: Mutex::default(),
        });
        for (name, arguments) in bounded::names() {
            let (shared, arity) = (Arc::clone(&shared), u8::try_from(arguments).unwrap_or(u8::MAX));
            let call = move |arguments: Vec<Value>| shared.call(name, &arguments);
            engine
                .add_extension(name.to_owned(), arity, Box::new(call))
                .map_err(|error| RegoError::Evaluate(clean(&error)))?;
        }
        engine.set_input(value(input)?);
        Ok(Run { engine, limits: self.limits, shared })
    }

    fn with_data(&self, data: Value) -> Result<Engine, RegoError> {
        let known = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((known, engine)) = known
            && known == data
        {
            return Ok(engine);
        }
        let failed = |error: &dyn std::fmt::Display| RegoError::Evaluate(clean(error));
        let mut engine = self.engine.clone();
        engine.add_data(data.clone()).map_err(|error| failed(&error))?;
        if let Some(first) = self.rules.first() {
            engine.compile_with_entrypoint(&path(first).into()).map_err(|error| failed(&error))?;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((data, engine.clone()));
        Ok(engine)
    }
}

/// One evaluation.
pub(super) struct Run {
    engine: Engine,
    limits: Limits,
    shared: Arc<Shared>,
}

/// What calls of the engine come to.
struct Shared {
    references: Arc<References>,
    at: u64,
    lookups: Mutex<Vec<Lookup>>,
    /// Why a call was refused: the engine has only words for it.
    refusal: Mutex<Option<RegoError>>,
}

impl Run {
    /// The value of a rule; `None` when it is undefined.
    pub(super) fn rule(&mut self, rule: &'static str) -> Result<Option<serde_json::Value>, RegoError> {
        let result = self.engine.eval_rule(path(rule));
        // A call that was refused is an error whatever the policy made of it.
        if let Some(refusal) = self.shared.refusal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(refusal);
        }
        let result = result.map_err(|error| self.failed(&error))?;
        if result == Value::Undefined {
            return Ok(None);
        }
        let json = bounded::to_json(&result, self.limits.json).ok_or(RegoError::Builtin {
            name: rule.to_owned(),
            why: "has a value that is longer than a policy may give",
        })?;
        serde_json::from_slice(&json).map(Some).map_err(|error| RegoError::Evaluate(clean(&error)))
    }

    /// Reference values that were asked for, in that order.
    pub(super) fn lookups(self) -> Vec<Lookup> {
        std::mem::take(&mut *self.shared.lookups.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, error: &anyhow::Error) -> RegoError {
        let timed_out = matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. }));
        if timed_out || error.to_string().contains("execution exceeded time limit") {
            return RegoError::Time(self.limits.time.as_millis());
        }
        RegoError::Evaluate(clean(error))
    }
}

impl Shared {
    fn call(&self, name: &'static str, arguments: &[Value]) -> anyhow::Result<Value> {
        self.answer(name, arguments).map_err(|error| {
            let words = anyhow::anyhow!("{error}");
            self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            words
        })
    }

    fn answer(&self, name: &'static str, arguments: &[Value]) -> Result<Value, RegoError> {
        let refused = |why| RegoError::Builtin { name: name.to_owned(), why };
        let first = || arguments.first().and_then(|argument| argument.as_string().ok());
        match bounded::call(name) {
            Some(Call::ReferenceValue) => {
                let wanted = first().ok_or_else(|| refused("takes the name of a reference value"))?;
                let found = self.references.query(wanted, self.at).unwrap_or(serde_json::Value::Null);
                let given = value(&found)?;
                let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
                let name = text::clean(wanted, 128);
                if lookups.len() < MAX_LOOKUPS && lookups.iter().all(|lookup| lookup.name != name) {
                    lookups.push(Lookup { name, value: found });
                }
                Ok(given)
            }
            Some(Call::Now) => Ok(Value::from(u64::try_from(u128::from(self.at) * 1_000_000_000).unwrap_or(u64::MAX))),
            Some(Call::ParseTime) => {
                Ok(first().and_then(|time| bounded::nanoseconds(time)).map_or(Value::Undefined, Value::from))
            }
            Some(Call::Bounded(builtin)) if builtin.fits(arguments) => {
                builtin.evaluate(arguments).map_err(|error| RegoError::Evaluate(clean(&error)))
            }
            Some(Call::Bounded(_)) => Err(refused("would give more than a policy may have")),
            None => Err(refused("is not offered")),
        }
    }
}

fn path(rule: &str) -> String {
    format!("data.policy.{rule}")
}

/// JSON as the engine has it.
pub(super) fn value(json: &serde_json::Value) -> Result<Value, RegoError> {
    Value::deserialize(json).map_err(|error| RegoError::Evaluate(clean(&error)))
}

pub(super) fn clean(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    text::clean(&words.join(" "), MAX_ERROR)
}
