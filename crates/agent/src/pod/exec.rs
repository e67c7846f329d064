//! Further processes in running containers: which of them the host may start, and the host's ids for them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use belljar_contract::Container;
use belljar_guest_api::limits::{MAX_EXECS, MAX_NAME, one_line};

use super::{error::PodError, lock, process::Process};

/// Longest command that an error quotes, in bytes.
const QUOTE: usize = 200;

/// Whether the contract lists the command, word for word; and where the host wants a terminal for it, whether the contract gives that
/// container one: a program does other things on a terminal, whose keys are signals.
pub(super) fn allowed(name: &str, container: &Container, args: &[String], terminal: bool) -> Result<(), PodError> {
    if container.exec.iter().any(|allowed| allowed == args) {
        return match terminal && !container.terminal {
            true => Err(PodError::ExecTerminal(name.to_owned())),
            false => Ok(()),
        };
    }
    let mut command = one_line(&format!("{:?}", args.iter().take(16).collect::<Vec<_>>()));
    if command.len() > QUOTE {
        command.truncate((0..=QUOTE).rev().find(|at| command.is_char_boundary(*at)).unwrap_or(0));
        command.push('…');
    }
    Err(PodError::ExecDenied { name: name.to_owned(), command, listed: container.exec.len() })
}

/// The processes that the host has started by `StartExec`, oldest first. A process has its place until it has ended and was
/// waited for; then it stays, so that the rest of its output can be read, until the place or the id is needed.
#[derive(Debug, Default)]
pub(super) struct Execs(Mutex<Vec<Arc<Exec>>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Exec {
    name: String,
    id: String,
    /// `None` while it is being made.
    process: Mutex<Option<Arc<Process>>>,
    waited: AtomicBool,
}

impl Execs {
    /// A place for the process `id` of container `name`.
    pub fn reserve(&self, name: &str, id: &str) -> Result<Arc<Exec>, PodError> {
        if id.is_empty() || id.len() > MAX_NAME {
            return Err(PodError::ExecId { found: id.len(), most: MAX_NAME });
        }
        let mut all = lock(&self.0);
        if let Some(at) = all.iter().position(|exec| exec.is(name, id)) {
            if !all.get(at).is_some_and(|exec| exec.is_done()) {
                return Err(PodError::ExecExists { name: name.to_owned(), id: one_line(id) });
            }
            all.remove(at);
        }
        if all.len() >= MAX_EXECS {
            let done = all.iter().position(|exec| exec.is_done()).ok_or(PodError::ExecTooMany)?;
            all.remove(done);
        }
        let (process, waited) = (Mutex::default(), AtomicBool::new(false));
        let exec = Arc::new(Exec { name: name.to_owned(), id: id.to_owned(), process, waited });
        all.push(exec.clone());
        Ok(exec)
    }

    /// The place of a process that could not be made.
    pub fn release(&self, exec: &Arc<Exec>) {
        lock(&self.0).retain(|other| !Arc::ptr_eq(other, exec));
    }

    /// The process `id` of container `name`.
    pub fn find(&self, name: &str, id: &str) -> Result<(Arc<Exec>, Arc<Process>), PodError> {
        let all = lock(&self.0);
        let found = all.iter().find(|exec| exec.is(name, id));
        let found = found.and_then(|exec| Some((exec.clone(), lock(&exec.process).clone()?)));
        found.ok_or_else(|| PodError::ExecUnknown { name: name.to_owned(), id: one_line(id) })
    }
}

impl Exec {
    /// The process is there.
    pub fn started(&self, process: Arc<Process>) {
        *lock(&self.process) = Some(process);
    }

    /// The host knows how it has ended.
    pub fn was_waited_for(&self) {
        self.waited.store(true, Ordering::Relaxed);
    }

    fn is(&self, name: &str, id: &str) -> bool {
        self.name == name && self.id == id
    }

    fn is_done(&self) -> bool {
        self.waited.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_contract::Contract;

    #[test]
    fn only_the_listed_words_are_allowed() {
        let base = include_str!("../../tests/container/container.toml");
        let mut container = Contract::parse(base).unwrap().containers["probe"].clone();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        container.exec = vec![words("/bin/check --all"), words("/bin/check")];
        let listed = |name: &str, container: &Container, args: &[String]| allowed(name, container, args, false);
        assert_eq!(listed("a", &container, &words("/bin/check")), Ok(()));
        assert_eq!(listed("a", &container, &words("/bin/check --all")), Ok(()));
        for other in ["/bin/check --al", "/bin/check --all x", "check", "/bin/check ", "/bin/check --all "] {
            let command = format!("{:?}", words(other));
            let denied = PodError::ExecDenied { name: "a".into(), command, listed: 2 };
            assert_eq!(listed("a", &container, &words(other)), Err(denied), "{other}");
        }
        let long = listed("a", &container, &["ü".repeat(1000)]).unwrap_err().to_string();
        assert!(long.len() < 400 && long.contains('…'), "{long}");
    }

    #[test]
    fn a_terminal_is_the_contracts_to_give() {
        let base = include_str!("../../tests/container/container.toml");
        let mut container = Contract::parse(base).unwrap().containers["probe"].clone();
        let check = ["/bin/check".to_owned()];
        container.exec = vec![check.to_vec()];
        container.terminal = false;
        let denied = PodError::ExecTerminal("a".into());
        assert_eq!(allowed("a", &container, &check, true), Err(denied.clone()));
        assert_eq!(allowed("a", &container, &check, false), Ok(()));
        container.terminal = true;
        assert_eq!(allowed("a", &container, &check, true), Ok(()));
        assert_eq!(denied.code(), belljar_guest_api::status::Code::PermissionDenied);
        let message = "exec with a terminal in container \"a\" is denied: its `terminal` expected true by the contract, found false";
        assert_eq!(denied.to_string(), message);
    }

    #[test]
    fn ids_are_unique_until_waited_for_and_bounded() {
        let execs = Execs::default();
        let unknown = |id: &str| PodError::ExecUnknown { name: "a".into(), id: id.into() };
        let first = execs.reserve("a", "x").unwrap();
        assert_eq!(execs.find("a", "x").unwrap_err(), unknown("x"), "it is not there before it runs");
        let exists = PodError::ExecExists { name: "a".into(), id: "x".into() };
        assert_eq!(execs.reserve("a", "x").unwrap_err(), exists);
        assert!(execs.reserve("b", "x").is_ok(), "an id belongs to a container");
        execs.release(&first);
        let first = execs.reserve("a", "x").unwrap();
        first.was_waited_for();
        let first = execs.reserve("a", "x").unwrap();
        for number in 2..MAX_EXECS {
            execs.reserve("a", &number.to_string()).unwrap();
        }
        assert_eq!(execs.reserve("a", "more").unwrap_err(), PodError::ExecTooMany);
        first.was_waited_for();
        assert!(execs.reserve("a", "more").is_ok());
        assert_eq!(execs.reserve("a", "yet more").unwrap_err(), PodError::ExecTooMany);
        assert_eq!(execs.reserve("a", "").unwrap_err(), PodError::ExecId { found: 0, most: MAX_NAME });
        let found = MAX_NAME + 1;
        assert_eq!(execs.reserve("a", &"x".repeat(found)).unwrap_err(), PodError::ExecId { found, most: MAX_NAME });
    }
}
