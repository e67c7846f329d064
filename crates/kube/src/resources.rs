//! Requests and limits.

use belljar_contract::Resources;
use belljar_contract::model::DEFAULT_SCRATCH;

use crate::error::Reason;
use crate::plan::Context;
use crate::quantity::Quantity;
use crate::walk::At;

/// What one container asks for and is limited to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    limits: Amounts,
    requests: Amounts,
}

#[derive(Debug, Clone, Default)]
struct Amounts {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    storage: Option<Quantity>,
}

impl Limits {
    pub(crate) fn read(at: Option<At<'_>>) -> Self {
        let Some(at) = at else { return Self::default() };
        let mut fields = at.fields();
        fields.refuse(&[("claims", "devices of the node cannot be given to a pod VM; remove it")]);
        let limits = fields.take("limits").map(|at| amounts(&at)).unwrap_or_default();
        let requests = fields.take("requests").map(|at| amounts(&at)).unwrap_or_default();
        Self { limits, requests }
    }

    /// As the contract has them.
    pub(crate) fn resources(&self) -> Resources {
        Resources {
            memory_bytes: self.limits.memory.and_then(Quantity::units),
            cpu_millis: self.limits.cpu.and_then(Quantity::millis),
            ..Resources::default()
        }
    }

    /// Bound of the writable layer.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        self.limits.storage.and_then(Quantity::units).unwrap_or(DEFAULT_SCRATCH)
    }

    fn get(&self, name: &str) -> Option<Option<Quantity>> {
        Some(match name {
            "limits.cpu" => self.limits.cpu,
            "limits.memory" => self.limits.memory,
            "limits.ephemeral-storage" => self.limits.storage,
            // The API server fills requests from limits.
            "requests.cpu" => Some(self.requests.cpu.or(self.limits.cpu).unwrap_or(ZERO)),
            "requests.memory" => Some(self.requests.memory.or(self.limits.memory).unwrap_or(ZERO)),
            "requests.ephemeral-storage" => Some(self.requests.storage.or(self.limits.storage).unwrap_or(ZERO)),
            _ => return None,
        })
    }
}

const ZERO: Quantity = Quantity::ZERO;

fn amounts(at: &At<'_>) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, at) in at.entries() {
        let Some(quantity) = Quantity::of(&at.node.value).filter(|quantity| quantity.units().is_some()) else {
            at.malformed("a quantity such as 500m or 64Mi", describe(&at));
            continue;
        };
        match name.as_str() {
            "cpu" => amounts.cpu = Some(quantity),
            "memory" => amounts.memory = Some(quantity),
            "ephemeral-storage" => amounts.storage = Some(quantity),
            name if name.starts_with("hugepages-") => at.refuse("a pod VM has no huge pages to give; remove it"),
            _ => at.refuse("devices and other resources of the node cannot be given to a pod VM; remove it"),
        }
    }
    amounts
}

/// A quantity as it stands, for a message.
pub(crate) fn describe(at: &At<'_>) -> String {
    use crate::yaml::Value::{Decimal, Integer, Text};
    match &at.node.value {
        Text(text) | Decimal(text) => text.clone(),
        Integer(number) => number.to_string(),
        other => other.kind().to_owned(),
    }
}

/// The value of a `resourceFieldRef`. `own` is the container that it stands in; a volume names one.
pub(crate) fn field(at: &At<'_>, own: Option<&Limits>, context: &Context<'_>) -> Option<String> {
    let mut fields = at.fields();
    let container = fields.take("containerName");
    let resource = fields.need("resource", "say which")?;
    let divisor = match fields.take("divisor") {
        None => Quantity::parse("1"),
        Some(at) => match Quantity::of(&at.node.value) {
            // The API server's own default.
            Some(zero) if zero == ZERO => Quantity::parse("1"),
            Some(quantity) => Some(quantity),
            None => {
                at.malformed("a quantity such as 1m or 1Mi", describe(&at));
                None
            }
        },
    };
    let limits = match &container {
        Some(at) => {
            let name = at.text()?;
            let found = context.limits.get(&name);
            if found.is_none() {
                at.malformed("the name of one of the pod's containers", name);
            }
            found?
        }
        None => {
            if own.is_none() {
                fields.missing("containerName", "say of which container");
            }
            own?
        }
    };
    let name = resource.text()?;
    let Some(value) = limits.get(&name) else {
        resource.malformed("limits or requests of cpu, memory or ephemeral-storage", name);
        return None;
    };
    let Some(value) = value else {
        resource.problem(Reason::Needs(format!(
            "is {name}, which the container does not set, so it would be what the node has: set it"
        )));
        return None;
    };
    value.in_units_of(divisor?).map(|count| count.to_string())
}
