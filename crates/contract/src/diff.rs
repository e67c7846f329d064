//! What one contract allows that another did not, in words.
//!
//! Every field of the model is compared: the structures are taken apart without `..`, so a new field does not compile before it
//! is compared here. A difference is [`Kind::Widened`] or [`Kind::Narrowed`] only where one side allows all that the other does;
//! all else is [`Kind::Changed`].

mod container;
mod pod;
mod values;

use serde::Serialize;

use crate::model::{BrokerPin, Contract};
use values::{Out, flag, map};

/// Which way a difference goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something is allowed that was not allowed before, and nothing is forbidden by it.
    Widened,
    /// Something else is allowed than before: another image, another command.
    Changed,
    /// Something is not allowed any more.
    Narrowed,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which way it goes.
    pub kind: Kind,
    /// Full path of the key, such as `containers.web.logs`.
    pub key: String,
    /// What is different, one line.
    pub words: String,
}

impl Change {
    /// Whether something can happen under the new contract that could not under the old one.
    pub fn allows_more(&self) -> bool {
        self.kind != Kind::Narrowed
    }
}

impl Contract {
    /// The differences between `old` and `new`, in the order of the model; none when they are equal.
    pub fn diff(old: &Self, new: &Self) -> Vec<Change> {
        let mut out = Out::default();
        let Self { version, broker, pod, operator, volumes, containers, debug } = new;
        if old.version != *version {
            out.changed("version", format!("the contract is of version {version} instead of {}", old.version));
        }
        self::broker(&mut out, old.broker.as_ref(), broker.as_ref());
        pod::settings(&mut out, &old.pod, pod);
        pod::operator(&mut out, old.operator.as_ref(), operator.as_ref());
        map(&mut out, "volumes", &old.volumes, volumes, pod::volume);
        container::all(&mut out, &old.containers, containers, volumes);
        flag(
            &mut out,
            "debug",
            old.debug,
            *debug,
            ["the host can read the guest's console", "the guest's console is closed"],
        );
        out.0
    }
}

fn broker(out: &mut Out, old: Option<&BrokerPin>, new: Option<&BrokerPin>) {
    let pin = |pin: &BrokerPin| {
        let BrokerPin { spki_sha256 } = pin;
        spki_sha256.clone()
    };
    match (old.map(pin), new.map(pin)) {
        (None, Some(new)) => out.widened("broker", format!("secrets may be asked for at the broker {new}")),
        (Some(old), None) => out.narrowed("broker", format!("the broker {old} is not asked for secrets any more")),
        (Some(old), Some(new)) if old != new => {
            out.changed("broker.spki_sha256", format!("secrets are asked for at the broker {new} instead of {old}"));
        }
        _ => {}
    }
}
