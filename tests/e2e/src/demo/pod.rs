//! The run that is shown, and its page.

use std::fs;
use std::path::Path;

use belljar_page::{Page, Verdict, render};

use crate::attacks::Attacked;
use crate::call;
use crate::fraud::{Fraud, Registered};
use crate::show::{Doing, Trouble, say, seconds};
use crate::work::Work;

/// The secret's name in the container.
pub const SECRET: &str = "model-key";

/// Runs the image in a pod VM and checks the result; the record of the run.
pub fn run(work: &Work, fraud: &Fraud, registered: &Registered) -> Result<Page, Trouble> {
    let key = fraud.key();
    let page = work.path("attestation.html");
    say(format_args!(
        "$ belljar run --secret {SECRET}={} --page {} --timings {}",
        from_here(&key),
        from_here(&page),
        registered.reference
    ));
    let mut command = work.belljar();
    command.args(["run", "--timings", "--secret"]).arg(format!("{SECRET}={}", key.display()));
    let run = call::shown(command.arg("--page").arg(&page).arg(&registered.reference))?.must("belljar run")?;
    if run.stdout != fraud.expected {
        return Err(Trouble("the pod's result is not the one that fraud-score gives outside of a pod".to_owned()));
    }
    say(format_args!("in {}; stdout (│) is byte for byte what fraud-score prints outside of a pod", seconds(run.took)));
    let record = newest_record(work)?;
    if record.verdict != Verdict::Accepted {
        return Err(Trouble(format!("the broker did not accept the run: {}", record.reason)));
    }
    for decision in &record.decisions {
        let mark = if decision.allowed { "released" } else { "denied" };
        say(format_args!("broker        {mark} {}", decision.resource));
    }
    Ok(record)
}

/// Writes the page again, with the attacks on it.
pub fn write_page(work: &Work, record: Page, attacks: &[Attacked]) -> Result<(), Trouble> {
    let page = Page { attacks: attacks.iter().map(Attacked::on_page).collect(), ..record };
    let path = work.path("attestation.html");
    fs::write(&path, render(&page)).doing(format!("write {}", path.display()))?;
    say(format_args!("{}", path.display()));
    say("one file, no script, nothing fetched: predicted and measured, chain, contract, decision, attacks");
    Ok(())
}

/// What must not be forgotten about this demo.
pub fn last_word(record: &Page) -> String {
    if record.tee.software {
        return "This ran in a SOFTWARE TEE, which protects nothing: root of this host reads the key out of the pod's memory.\n\
                On AMD SEV-SNP or Intel TDX the same steps protect; `belljar doctor` says what this machine lacks."
            .to_owned();
    }
    format!("This ran in {}; `belljar probe memory` shows what this host can read.", record.tee.name)
}

fn newest_record(work: &Work) -> Result<Page, Trouble> {
    let directory = work.path("data/runs");
    let entries = fs::read_dir(&directory).doing(format!("read {}", directory.display()))?;
    // Names sort by time.
    let newest = entries.flatten().map(|entry| entry.path()).max();
    let newest = newest.ok_or_else(|| Trouble(format!("the run left no record in {}", directory.display())))?;
    let text = fs::read(&newest).doing(format!("read {}", newest.display()))?;
    serde_json::from_slice(&text).doing(format!("understand {}", newest.display()))
}

/// A path as a person at the root of the checkout would write it.
fn from_here(path: &Path) -> String {
    path.strip_prefix(belljar_e2e::programs::root()).unwrap_or(path).display().to_string()
}
