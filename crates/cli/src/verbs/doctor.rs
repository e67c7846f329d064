//! `belljar doctor`: what this machine can do, and the one next step for each lack.

use belljar_doctor::{Directory, GuestImage as GuestState, Host, Inputs, KvmProbe, Report, State, examine};
use belljar_guest_image::{GuestImage, ImageError};
use belljar_vmm::{GuestFiles, Pods, Qemu, accel};
use clap::Args;

use crate::failure::{Exit, Failure};
use crate::output::{Format, json, table};
use crate::paths::Paths;

/// Bytes that a layer store needs to be of use.
const STORE_NEED: u64 = 2 << 30;
/// Bytes that the cache needs for the guest image's packages.
const CACHE_NEED: u64 = 1 << 30;

/// What this machine can do, and the one next step for each lack.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 pods can run here (at least in the software TEE) · 1 they cannot.\nExample: belljar doctor --format json"
)]
pub struct Doctor {
    /// Try again whether KVM really runs a guest, instead of remembering
    #[arg(long)]
    pub again: bool,
}

impl Doctor {
    /// Carries the verb out. Also removes what dead runs have left.
    pub fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let pods = Pods::of_user().map_err(Failure::undecided)?;
        let swept = pods.sweep().map_err(Failure::undecided)?;
        let running = pods.list().map_err(Failure::undecided)?;
        if self.again {
            accel::forget(&paths.cache).map_err(|e| Failure::undecided(format!("{}: {e}", paths.cache.display())))?;
        }
        let image = GuestImage::open(&paths.guest());
        let inputs = Inputs {
            kvm: kvm(&image, paths),
            guest_image: guest_state(&image, paths),
            qemu: std::env::var_os(belljar_vmm::qemu::ENV).map(Into::into),
            directories: vec![
                Directory { name: "store".to_owned(), path: paths.store(), need_bytes: STORE_NEED },
                Directory { name: "cache".to_owned(), path: paths.cache.clone(), need_bytes: CACHE_NEED },
            ],
        };
        let report = examine(&Host, &inputs);
        let can_run = report.can_run();
        match format {
            Format::Json => json(&serde_json::json!({
                "can_run": can_run, "rows": report.rows, "running": running,
                "cleaned_up": swept.iter().map(|s| &s.id).collect::<Vec<_>>(),
            }))?,
            Format::Text => {
                for left in &swept {
                    println!("cleaned up after pod {}, whose owner had died", left.id);
                }
                print(&report);
                for pod in running {
                    println!("running: {} ({}, {:?} TEE)", pod.name, pod.image, pod.tee);
                }
                println!(
                    "\n{}",
                    if can_run {
                        "Pods can run on this machine."
                    } else {
                        "Pods cannot run on this machine yet: take the steps above."
                    }
                );
            }
        }
        Ok(if can_run { 0 } else { Exit::Refused.code() })
    }
}

fn print(report: &Report) {
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| {
            let state = match row.state {
                State::Ok => "ok",
                State::Missing => "missing",
                State::Problem => "problem",
                State::NotApplicable => "-",
            };
            let area = serde_json::to_value(row.area).ok().and_then(|v| v.as_str().map(str::to_owned));
            vec![area.unwrap_or_default(), row.what.clone(), state.to_owned(), row.found.clone()]
        })
        .collect();
    print!("{}", table(&["AREA", "WHAT", "STATE", "FOUND"], &rows));
    let steps: Vec<_> = report.rows.iter().filter_map(|row| Some((row, row.next.as_ref()?))).collect();
    if !steps.is_empty() {
        println!("\nNext steps:");
        for (row, next) in steps {
            println!("- {}: {next}", row.what);
        }
    }
}

fn guest_state(image: &Result<GuestImage, ImageError>, paths: &Paths) -> GuestState {
    let dir = paths.guest();
    match image {
        Ok(image) => match image.verify() {
            Ok(()) => GuestState::Complete { dir, version: image.manifest().kernel_release.clone() },
            Err(error) => GuestState::Broken { dir, why: error.to_string() },
        },
        Err(ImageError::Missing { .. }) => GuestState::Absent { dir },
        Err(error) => GuestState::Broken { dir, why: error.to_string() },
    }
}

fn kvm(image: &Result<GuestImage, ImageError>, paths: &Paths) -> KvmProbe {
    let (Ok(image), Ok(qemu)) = (image, Qemu::find(&paths.cache)) else { return KvmProbe::NotTried };
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() else {
        return KvmProbe::NotTried;
    };
    let files = GuestFiles {
        firmware: image.qboot(),
        kernel: image.vmlinux(),
        initrd: image.initrd(),
        cmdline: image.cmdline(false),
    };
    let answer = runtime.block_on(accel::probe(&qemu, &files, &paths.cache));
    if answer.works { KvmProbe::Runs } else { KvmProbe::Fails(answer.reason) }
}
