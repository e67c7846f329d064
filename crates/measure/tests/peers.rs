//! Our SNP launch digests against those of `sev-snp-measure` 0.0.13, with Debian's OVMF for AMD SEV.
//!
//! Needs `OVMF.amdsev.fd` (in `BELLJAR_GUEST` or in the cache's `firmware`) and Python with pip, which is asked once
//! for the peer. Where one of them is missing, every trial is listed as ignored and the reason is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use belljar_measure::{SnpError, SnpLaunch, snp};
use libtest_mimic::{Arguments, Failed, Trial};

/// Version of the peer on PyPI.
const PEER: &str = "sev-snp-measure==0.0.13";

struct Case {
    name: &'static str,
    kernel: usize,
    initrd: usize,
    cmdline: &'static str,
    vcpus: u32,
    vcpu_type: &'static str,
    guest_features: u64,
    vmm: &'static str,
}

const CASES: [Case; 9] = [
    Case { name: "one_vcpu", ..BASE },
    Case { name: "eight_vcpus", vcpus: 8, ..BASE },
    Case { name: "milan", vcpus: 2, vcpu_type: "EPYC-Milan", ..BASE },
    Case { name: "genoa_v1", vcpu_type: "EPYC-Genoa-v1", ..BASE },
    Case { name: "guest_features", vcpus: 4, guest_features: 0x21, ..BASE },
    Case { name: "empty_cmdline", cmdline: "", ..BASE },
    Case { name: "odd_lengths", kernel: 4097, initrd: 1, ..BASE },
    Case { name: "empty_initrd", initrd: 0, ..BASE },
    Case { name: "ec2", vcpus: 3, vmm: "ec2", ..BASE },
];

const BASE: Case = Case {
    name: "",
    kernel: 1_000_000,
    initrd: 300_000,
    cmdline: "console=hvc0 quiet belljar.debug",
    vcpus: 1,
    vcpu_type: "EPYC-v4",
    guest_features: 1,
    vmm: "qemu",
};

fn main() {
    let cache = cache();
    let tools = firmware(&cache).and_then(|ovmf| Ok((ovmf, peer(&cache)?)));
    if let Err(missing) = &tools {
        eprintln!("{missing}: every comparison with sev-snp-measure is ignored");
    }
    let trials = CASES.iter().map(|case| {
        let tools = tools.clone();
        let ignored = tools.is_err();
        let run = move || compare(case, &tools.map_err(Failed::from)?);
        Trial::test(format!("sev_snp_measure::{}", case.name), run).with_ignored_flag(ignored)
    });
    let random = {
        let tools = tools.clone();
        let ignored = tools.is_err();
        let run = move || random_parameters(&tools.map_err(Failed::from)?);
        Trial::test("sev_snp_measure::random_parameters", run).with_ignored_flag(ignored)
    };
    let trials = trials.chain([random]);
    let firmware_only = firmware(&cache);
    let ignored = firmware_only.is_err();
    let refusals =
        Trial::test("snp::refusals_and_their_twins", move || refusals(&firmware_only.map_err(Failed::from)?))
            .with_ignored_flag(ignored);
    libtest_mimic::run(&Arguments::from_args(), trials.chain([refusals]).collect()).exit();
}

fn compare(case: &Case, (ovmf, python): &(PathBuf, PathBuf)) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let launch = launch(case, ovmf, folder.path());
    let ours = hex::encode(snp(&launch)?);
    let output = Command::new(python)
        .args(["-m", "sevsnpmeasure.cli", "--mode", "snp", "--output-format", "hex", "--vcpu-type", case.vcpu_type])
        .args(["--vcpus", &case.vcpus.to_string(), "--append", case.cmdline])
        .args(["--vmm-type", if case.vmm == "qemu" { "QEMU" } else { case.vmm }])
        .args(["--guest-features", &format!("{:#x}", case.guest_features)])
        .arg("--ovmf")
        .arg(ovmf)
        .arg("--kernel")
        .arg(&launch.kernel)
        .arg("--initrd")
        .arg(&launch.initrd)
        .output()?;
    let theirs = String::from_utf8(output.stdout)?;
    if theirs.trim() != ours {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("ours {ours}, theirs {theirs}; {stderr}").into());
    }
    // The twin: a launch that differs in one byte has another digest.
    let changed = SnpLaunch { cmdline: format!("{}x", case.cmdline), ..launch };
    if hex::encode(snp(&changed)?) == ours {
        return Err("another command line has the same digest".into());
    }
    Ok(())
}

/// Sixteen launches from a seed: sizes, command lines, vCPUs, their types, features and hypervisors.
fn random_parameters(tools: &(PathBuf, PathBuf)) -> Result<(), Failed> {
    let mut state = 20_261_126_u64;
    let mut next = |below: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    for _ in 0..16 {
        let case = Case {
            name: "random",
            kernel: next(100_000) + 1,
            initrd: next(100_000),
            cmdline: ["", "quiet", "console=ttyS0 root=/dev/vda1 ro", "a=\"b c\" ä"][next(4)],
            vcpus: u32::try_from(next(32)).unwrap() + 1,
            vcpu_type: ["EPYC", "EPYC-v4", "EPYC-Rome", "EPYC-Milan-v2", "EPYC-Genoa"][next(5)],
            guest_features: [0x1, 0x5, 0x21, 0x15][next(4)],
            vmm: ["qemu", "ec2"][next(2)],
        };
        compare(&case, tools).map_err(|error| {
            let text = format!("{} vcpus of {} under {}: {error:?}", case.vcpus, case.vcpu_type, case.vmm);
            Failed::from(text)
        })?;
    }
    Ok(())
}

fn refusals(ovmf: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let good = launch(&BASE, ovmf, folder.path());
    snp(&good)?;
    let refused = |launch: SnpLaunch, expected: fn(&SnpError) -> bool| match snp(&launch) {
        Err(error) if expected(&error) => Ok(()),
        other => Err(Failed::from(format!("{other:?} for {launch:?}"))),
    };
    refused(SnpLaunch { vcpus: 0, ..good.clone() }, |error| matches!(error, SnpError::Vcpus { found: 0 }))?;
    refused(SnpLaunch { cmdline: "quiet ".into(), ..good.clone() }, |error| matches!(error, SnpError::Cmdline))?;
    refused(SnpLaunch { guest_features: 0, ..good.clone() }, |error| {
        matches!(error, SnpError::GuestFeatures { found: 0 })
    })?;
    refused(SnpLaunch { kernel: "/nonexistent".into(), ..good.clone() }, |error| matches!(error, SnpError::File(_)))?;
    // The kernel is no firmware; neither is firmware with a broken table.
    refused(SnpLaunch { ovmf: good.kernel.clone(), ..good.clone() }, |error| {
        matches!(error, SnpError::Firmware { .. })
    })?;
    let broken = folder.path().join("broken.fd");
    let mut bytes = std::fs::read(ovmf)?;
    let footer = bytes.len() - 32 - 18;
    for byte in &mut bytes[footer - 64..footer] {
        *byte = 0xFF;
    }
    std::fs::write(&broken, &bytes)?;
    refused(SnpLaunch { ovmf: broken, ..good }, |error| matches!(error, SnpError::Firmware { .. }))
}

fn launch(case: &Case, ovmf: &Path, folder: &Path) -> SnpLaunch {
    let (kernel, initrd) = (folder.join("kernel"), folder.join("initrd"));
    std::fs::write(&kernel, vec![0xA5; case.kernel]).unwrap();
    std::fs::write(&initrd, vec![0x5A; case.initrd]).unwrap();
    SnpLaunch {
        vcpu_type: case.vcpu_type.parse().unwrap(),
        guest_features: case.guest_features,
        vmm: case.vmm.parse().unwrap(),
        ..SnpLaunch::new(ovmf, &kernel, &initrd, case.cmdline, case.vcpus)
    }
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/belljar");
    std::env::var_os("BELLJAR_CACHE").map_or_else(home, PathBuf::from)
}

fn firmware(cache: &Path) -> Result<PathBuf, String> {
    let guest = std::env::var_os("BELLJAR_GUEST").map(PathBuf::from);
    let folders = guest.into_iter().chain([cache.join("firmware")]);
    let mut files = folders.map(|folder| folder.join("OVMF.amdsev.fd"));
    files
        .find(|file| file.is_file())
        .ok_or_else(|| "OVMF.amdsev.fd is missing (belljar guest build fetches it)".to_owned())
}

/// Python with the peer installed, in an environment of its own that is made once.
fn peer(cache: &Path) -> Result<PathBuf, String> {
    let environment = cache.join("venv-sev-snp-measure-0.0.13");
    let (python, done) = (environment.join("bin/python"), environment.join("complete"));
    if done.is_file() {
        return Ok(python);
    }
    std::fs::create_dir_all(cache).map_err(|error| error.to_string())?;
    let lock = std::fs::File::create(cache.join("venv.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if done.is_file() {
        return Ok(python);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{command:?} cannot run: {error}")),
    };
    if run(Command::new("python3").args(["-m", "venv"]).arg(&environment)).is_ok() {
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PEER]))?;
    } else {
        // Debian ships venv apart from Python; pip alone does as well.
        std::fs::create_dir_all(environment.join("bin")).map_err(|error| error.to_string())?;
        let packages = environment.join("packages");
        run(Command::new("python3").args(["-m", "pip", "install", "--quiet", PEER, "--target"]).arg(&packages))?;
        let script = format!("#!/bin/sh\nPYTHONPATH='{}' exec python3 \"$@\"\n", packages.display());
        let _ = std::fs::remove_file(&python);
        std::fs::write(&python, script).map_err(|error| error.to_string())?;
        run(Command::new("chmod").arg("755").arg(&python))?;
    }
    std::fs::write(&done, PEER).map_err(|error| error.to_string())?;
    Ok(python)
}
