//! When a container may be started: by its place among the init containers, and by what became of its last run.

use std::fmt;

use belljar_contract::{Container, Contract, Restart};

use super::{
    error::{PodError, restart_word},
    process::Ended,
};
use crate::reaper::ExitCode;

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It was never started.
    New,
    /// It runs, or is just being started.
    Runs,
    /// Its last start failed.
    Failed,
    /// Its last run has ended.
    Ended(ExitCode),
    /// Its last run has ended with 0 after a signal from outside: nobody knows whether its work was done.
    Interrupted,
}

impl Stand {
    /// Of a container whose last run has ended like this.
    pub fn of(ended: &Ended) -> Self {
        match ended {
            Ended { code: 0, signalled: true, .. } => Self::Interrupted,
            Ended { code, .. } => Self::Ended(*code),
        }
    }
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("was not started"),
            Self::Runs => f.write_str("runs"),
            Self::Failed => f.write_str("could not be started"),
            Self::Ended(code) => write!(f, "has ended with {code}"),
            Self::Interrupted => f.write_str("has ended with 0 after the host sent it a signal"),
        }
    }
}

/// Whether container `name` may be started now.
pub fn may_start(contract: &Contract, name: &str, stands: impl Fn(&str) -> Stand) -> Result<(), PodError> {
    let container = contract.containers.get(name).ok_or_else(|| PodError::Unknown(name.to_owned()))?;
    match stands(name) {
        Stand::New => {}
        Stand::Runs => return Err(PodError::Started(name.to_owned())),
        stand if again(container, stand) => {}
        stand => {
            let (name, ended, restart) = (name.to_owned(), stand.to_string(), restart_word(container.restart));
            return Err(PodError::NoRestart { name, ended, restart });
        }
    }
    let mut before: Vec<_> = contract
        .containers
        .iter()
        .filter(|(_, other)| other.init > 0 && (container.init == 0 || other.init < container.init))
        .collect();
    before.sort_by_key(|(_, other)| other.init);
    for (other, _) in before {
        let found = stands(other);
        if found != Stand::Ended(0) {
            let (name, before, found) = (name.to_owned(), other.clone(), found.to_string());
            return Err(PodError::Order { name, before, found });
        }
    }
    Ok(())
}

/// Whether a container that stands there may be started now or later.
pub fn may_start_ever(container: &Container, stand: Stand) -> bool {
    match stand {
        Stand::New => true,
        Stand::Runs => container.restart != Restart::Never,
        stand => again(container, stand),
    }
}

/// Whether a container may be started again after it has ended so. An init container that has ended with 0 has done its work,
/// which the others build on; one that ended with 0 after a signal may not have.
fn again(container: &Container, stand: Stand) -> bool {
    let failed = !matches!(stand, Stand::Ended(0));
    match container.restart {
        Restart::Never => false,
        Restart::OnFailure => failed,
        Restart::Always => failed || container.init == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Containers by name, with their place and rule.
    fn contract(containers: &[(&str, u32, Restart)]) -> Contract {
        let base = include_str!("../../tests/container/container.toml");
        let mut contract = Contract::parse(base).unwrap();
        let container = contract.containers.remove("probe").unwrap();
        for (name, init, restart) in containers {
            let container = Container { init: *init, restart: *restart, ..container.clone() };
            contract.containers.insert((*name).to_owned(), container);
        }
        contract
    }

    fn start(contract: &Contract, name: &str, stands: &[(&str, Stand)]) -> Result<(), PodError> {
        let stands: BTreeMap<_, _> = stands.iter().copied().collect();
        may_start(contract, name, |name| stands.get(name).copied().unwrap_or(Stand::New))
    }

    #[test]
    fn init_containers_end_with_0_before_the_next_starts() {
        let contract =
            contract(&[("a", 0, Restart::Always), ("second", 2, Restart::OnFailure), ("first", 1, Restart::OnFailure)]);
        let order = |name: &str, before: &str, found: &str| {
            Err(PodError::Order { name: name.into(), before: before.into(), found: found.into() })
        };
        assert_eq!(start(&contract, "first", &[]), Ok(()));
        assert_eq!(start(&contract, "second", &[]), order("second", "first", "was not started"));
        assert_eq!(start(&contract, "a", &[]), order("a", "first", "was not started"));
        assert_eq!(start(&contract, "second", &[("first", Stand::Runs)]), order("second", "first", "runs"));
        let failed = [("first", Stand::Ended(3))];
        assert_eq!(start(&contract, "second", &failed), order("second", "first", "has ended with 3"));
        let could_not = [("first", Stand::Failed)];
        assert_eq!(start(&contract, "second", &could_not), order("second", "first", "could not be started"));
        let interrupted = [("first", Stand::Interrupted)];
        let found = "has ended with 0 after the host sent it a signal";
        assert_eq!(start(&contract, "second", &interrupted), order("second", "first", found));
        assert_eq!(start(&contract, "a", &interrupted), order("a", "first", found));
        let last = [("first", Stand::Ended(0)), ("second", Stand::Interrupted)];
        assert_eq!(start(&contract, "a", &last), order("a", "second", found));
        let done = [("first", Stand::Ended(0))];
        assert_eq!(start(&contract, "second", &done), Ok(()));
        assert_eq!(start(&contract, "a", &done), order("a", "second", "was not started"));
        assert_eq!(start(&contract, "a", &[("first", Stand::Ended(0)), ("second", Stand::Ended(0))]), Ok(()));
        assert_eq!(start(&contract, "b", &[]), Err(PodError::Unknown("b".into())));
    }

    #[test]
    fn a_container_is_started_again_as_the_contract_says() {
        let contract = contract(&[
            ("never", 0, Restart::Never),
            ("failure", 0, Restart::OnFailure),
            ("always", 0, Restart::Always),
            ("init", 1, Restart::Always),
        ]);
        let after = |name: &str, stand| {
            let outcome = start(&contract, name, &[("init", Stand::Ended(0)), (name, stand)]);
            let ever = may_start_ever(&contract.containers[name], stand);
            assert!(outcome.is_err() || ever, "{name} {stand}");
            outcome
        };
        let refused = |name: &str, ended: &str, restart| {
            Err(PodError::NoRestart { name: name.into(), ended: ended.into(), restart })
        };
        for name in ["never", "failure", "always", "init"] {
            assert_eq!(after(name, Stand::Runs), Err(PodError::Started(name.into())));
        }
        assert_eq!(after("never", Stand::Ended(1)), refused("never", "has ended with 1", "never"));
        assert_eq!(after("never", Stand::Failed), refused("never", "could not be started", "never"));
        assert_eq!(after("failure", Stand::Ended(1)), Ok(()));
        assert_eq!(after("failure", Stand::Failed), Ok(()));
        assert_eq!(after("failure", Stand::Ended(0)), refused("failure", "has ended with 0", "on-failure"));
        assert_eq!(after("always", Stand::Ended(0)), Ok(()));
        assert_eq!(after("always", Stand::Ended(137)), Ok(()));
        assert_eq!(after("init", Stand::Ended(2)), Ok(()));
        assert_eq!(after("init", Stand::Ended(0)), refused("init", "has ended with 0", "always"));
        // What may not be done may be done again, where the contract has it so.
        assert_eq!(after("init", Stand::Interrupted), Ok(()));
        let found = "has ended with 0 after the host sent it a signal";
        assert_eq!(after("never", Stand::Interrupted), refused("never", found, "never"));
    }

    #[test]
    fn a_signal_makes_an_end_with_0_worth_nothing() {
        let ended = |code, signalled| Stand::of(&Ended { code, signalled, ..Ended::default() });
        assert_eq!(ended(0, false), Stand::Ended(0));
        assert_eq!(ended(0, true), Stand::Interrupted);
        assert_eq!((ended(3, false), ended(3, true)), (Stand::Ended(3), Stand::Ended(3)));
    }

    #[test]
    fn what_may_still_start_keeps_its_secrets() {
        let contract = contract(&[("never", 0, Restart::Never), ("always", 0, Restart::Always)]);
        let (never, always) = (&contract.containers["never"], &contract.containers["always"]);
        assert!(may_start_ever(never, Stand::New) && !may_start_ever(never, Stand::Runs));
        assert!(may_start_ever(always, Stand::Runs) && may_start_ever(always, Stand::Ended(0)));
        assert!(!may_start_ever(never, Stand::Ended(1)));
    }
}
