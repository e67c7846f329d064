//! `belljar verify`: whether a running pod is what its user thinks.

use belljar_broker::{BrokerUrl, RemoteBroker};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

use crate::failure::{Exit, Failure, one_line};
use crate::output::{Format, json};
use crate::paths::Paths;
use crate::run::broker::read_token;
use crate::verify::expected::Comparison;
use crate::verify::judge::{Check, Judged};
use crate::verify::{Common, Session};

/// What every output about a software TEE says.
pub const SOFTWARE: &str = "software tee: nothing protects this pod from its host";

/// Challenge a running pod.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    common: Common,
    /// What to compare with: the annotated YAML, an initdata document, or a contract
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Compare with what this broker was told: the contract must be one that it has admitted
    #[arg(long, value_name = "URL", requires = "broker_token", conflicts_with = "file")]
    broker: Option<String>,
    /// File with the broker's admin token
    #[arg(long, value_name = "FILE")]
    broker_token: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Yes,
    No,
    NotCompared,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    target: String,
    verdict: Verdict,
    software_tee: bool,
    initdata_digest: &'a str,
    measurement: &'a str,
    launch: Option<&'a str>,
    compared_with: Option<String>,
    differences: Vec<String>,
    checks: &'a [Check],
    words: Vec<String>,
}

impl Verify {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let Session { client, judged, .. } = self.common.challenge(paths, self.file.as_deref(), None).await?;
        client.close().await;
        let (verdict, compared_with, differences) = match (judged.failure(), &judged.comparison, &self.broker) {
            (Some(_), _, _) => (Verdict::No, None, Vec::new()),
            (None, Some(Comparison::Same { title }), _) => (Verdict::Yes, Some(self.part(title)), Vec::new()),
            (None, Some(Comparison::Other { title, differences }), _) => {
                (Verdict::No, Some(self.part(title)), differences.clone())
            }
            (None, None, Some(url)) => match self.admitted(url, &judged).await? {
                Some(workload) => (Verdict::Yes, Some(format!("broker {url}, workload {workload}")), Vec::new()),
                None => {
                    let difference = "the broker has admitted no pod of this contract".to_owned();
                    (Verdict::No, Some(format!("broker {url}")), vec![difference])
                }
            },
            (None, None, None) => (Verdict::NotCompared, None, Vec::new()),
        };
        let words = judged.contract.plain_words();
        let answer = Answer {
            target: self.common.target.to_string(),
            verdict,
            software_tee: judged.software,
            initdata_digest: &judged.initdata_digest,
            measurement: &judged.measurement,
            launch: judged.launch.as_deref(),
            compared_with,
            differences,
            checks: &judged.checks,
            words,
        };
        match format {
            Format::Json => json(&answer)?,
            Format::Text => print(&answer, &judged),
        }
        Ok(match verdict {
            Verdict::Yes => 0,
            Verdict::No => Exit::Refused.code(),
            Verdict::NotCompared => Exit::Undecided.code(),
        })
    }

    /// The file, and which part of it.
    fn part(&self, title: &str) -> String {
        let file = self.file.as_deref().map(|file| file.display().to_string()).unwrap_or_default();
        if title.is_empty() { file } else { format!("{file}, {title}") }
    }

    /// The workload as which the broker has admitted a pod of this contract.
    async fn admitted(&self, url: &str, judged: &Judged) -> Result<Option<String>, Failure> {
        let url: BrokerUrl = url.parse().map_err(Failure::usage)?;
        let token = self.broker_token.as_deref().ok_or_else(|| Failure::usage("--broker needs --broker-token"))?;
        let remote = RemoteBroker::new(url, read_token(token)?);
        let mut digest = [0; 32];
        hex::decode_to_slice(&judged.initdata_digest, &mut digest).map_err(Failure::undecided)?;
        let records = remote.handshakes(&digest).await.map_err(Failure::undecided)?;
        let admitted = records.iter().rev().find(|record| record.denial.is_none() && !record.workloads.is_empty());
        Ok(admitted.map(|record| record.workloads.join(", ")))
    }
}

fn print(answer: &Answer<'_>, judged: &Judged) {
    let target = &answer.target;
    match (answer.verdict, judged.failure()) {
        (Verdict::Yes, _) => {
            println!("{target}: yes, this is {}", answer.compared_with.as_deref().unwrap_or_default());
        }
        (_, Some(check)) => {
            println!("{target}: no, its evidence does not hold");
            println!("  {}: expected {}, found {}", check.name, check.expected, one_line(&check.found));
        }
        (Verdict::No, None) => {
            println!(
                "{target}: no, it runs another contract than {}",
                answer.compared_with.as_deref().unwrap_or_default()
            );
            for line in &answer.differences {
                println!("  {}", one_line(line));
            }
        }
        (Verdict::NotCompared, None) => {
            println!("{target}: its evidence holds, and it was compared with nothing: give -f FILE or --broker URL");
        }
    }
    if judged.software {
        println!("  {SOFTWARE}");
    }
    if judged.failure().is_some() {
        return;
    }
    println!("  contract    {}", answer.initdata_digest);
    println!("  measurement {}", answer.measurement);
    println!("  launch      {}", answer.launch.unwrap_or("unknown"));
    if answer.verdict == Verdict::NotCompared {
        println!("  what it may do:");
        for line in &answer.words {
            println!("  - {}", one_line(line));
        }
    }
}
