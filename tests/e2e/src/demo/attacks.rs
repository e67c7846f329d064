//! What the host tries, each with its positive twin.

use std::fs;
use std::time::Duration;

use belljar_e2e::attack::{ATTACK, Attack, DIRECTORY, NEEDLE};
use belljar_e2e::programs::program;

use crate::call::{self, Call};
use crate::fraud::{Fraud, Registered};
use crate::pod::SECRET;
use crate::show::{Doing, Trouble, say, seconds};
use crate::text::{short_digests, wrap};
use crate::work::Work;

/// Bytes of the encrypted model by which the attack on a layer finds its place: the file's header, and a salt.
const NEEDLE_BYTES: usize = 32;
/// Width of the reason in the table.
const REASON_WIDTH: usize = 76;

/// One attack that was tried.
#[derive(Debug)]
pub struct Attacked {
    attack: Attack,
    run: Call,
    twin: Call,
    expected: String,
}

impl Attacked {
    /// Exit code 1, a reason, and not a byte of the result.
    fn refused(&self) -> bool {
        self.run.code == 1 && !self.run.stdout.contains("flagged") && !self.reason().is_empty()
    }

    /// The same motions without the change give the right result.
    fn twin_accepted(&self) -> bool {
        self.twin.code == 0 && self.twin.stdout == self.expected
    }

    /// What `belljar run` said.
    fn reason(&self) -> &str {
        // Above it stands the notice about the software TEE, below it are details; what the container wrote last may have no
        // line end.
        let lines = self.run.stderr.lines().filter_map(|line| Some(line.split_once("belljar: ")?.1));
        lines.rev().find(|line| !line.contains("protects nothing")).unwrap_or_default()
    }

    /// For the page.
    pub fn on_page(&self) -> belljar_page::Attack {
        belljar_page::Attack {
            name: self.attack.words().to_owned(),
            refused: self.refused(),
            reason: self.reason().to_owned(),
            twin_accepted: self.twin_accepted(),
        }
    }

    fn print(&self) {
        say("");
        let outcome = if self.refused() { "REFUSED" } else { "NOT REFUSED" };
        let twin = if self.twin_accepted() { "accepted" } else { "NOT ACCEPTED" };
        say(format_args!(
            "{:<52} {outcome} in {}, twin {twin} in {}",
            self.attack.words(),
            seconds(self.run.took),
            seconds(self.twin.took)
        ));
        for line in wrap(&short_digests(self.reason()), REASON_WIDTH) {
            say(format_args!("    {line}"));
        }
    }
}

/// Tries every attack and its twin.
pub fn all(work: &Work, fraud: &Fraud, registered: &Registered) -> Result<Vec<Attacked>, Trouble> {
    let model = fs::read(fraud.model()).doing("read the encrypted model")?;
    let needle = hex::encode(model.get(..NEEDLE_BYTES).unwrap_or(&model));
    let mut tried = Vec::new();
    for attack in Attack::ALL {
        let twin = one(work, fraud, registered, attack(false), &needle)?;
        let run = one(work, fraud, registered, attack(true), &needle)?;
        let attacked = Attacked { attack: attack(true), run, twin, expected: fraud.expected.clone() };
        attacked.print();
        tried.push(attacked);
    }
    let took: Duration = tried.iter().map(|a| a.run.took).sum();
    say("");
    say(format_args!("each in VMs of their own; the refusals took {} together", seconds(took)));
    Ok(tried)
}

fn one(work: &Work, fraud: &Fraud, registered: &Registered, attack: Attack, needle: &str) -> Result<Call, Trouble> {
    let copies = work.path("attacks").join(attack.name());
    fs::create_dir_all(&copies).doing(format!("make {}", copies.display()))?;
    let mut command = work.belljar();
    command.env("BELLJAR_QEMU", program("hostile-qemu")).env(ATTACK, attack.name()).env(DIRECTORY, &copies);
    // A name is in the contract as the hostname: that is what the attack on the contract changes.
    command.env(NEEDLE, needle).args(["run", "--rm", "--name", "attacked", "--secret"]);
    command.arg(format!("{SECRET}={}", fraud.key().display())).arg(&registered.reference);
    call::quietly(&mut command)
}

/// Fails when one attack was not refused, or one twin was.
pub fn judge(tried: &[Attacked]) -> Result<(), Trouble> {
    for attacked in tried {
        let words = attacked.attack.words();
        if !attacked.refused() {
            let run = &attacked.run;
            return Err(Trouble(format!("{words} was not refused (code {}): {}", run.code, run.stderr.trim())));
        }
        if !attacked.twin_accepted() {
            let twin = &attacked.twin;
            return Err(Trouble(format!("{words}: the twin failed (code {}): {}", twin.code, twin.stderr.trim())));
        }
    }
    Ok(())
}
