//! TDX arguments, read by a QEMU that knows them, up to the hardware that is missing; and SNP arguments under KVM.
//!
//! Debian 12's QEMU has no `tdx-guest`; `guest/fetch-qemu-tdx.sh` fetches one that has. Where it, or `/dev/kvm`, is
//! missing, these tests are reported as ignored, never as passed. QEMU checks the length of MRCONFIGID only where TDX
//! is, so that could not be run here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::path::{Path, PathBuf};

use belljar_vmm::{Accel, Machine, QuoteSocket};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let tdx = belljar_guest_image::cache_dir().join("qemu11/qemu");
    let no_tdx = (!tdx.exists()).then(|| format!("no {}: run guest/fetch-qemu-tdx.sh", tdx.display()));
    let no_kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").err();
    let no_kvm = no_kvm.map(|error| format!("/dev/kvm: {error}"));
    let has_snp = Path::new("/dev/sev").exists().then(|| "this machine has SNP and would start".to_owned());
    let parameter = std::fs::read_to_string("/sys/module/kvm_intel/parameters/tdx");
    let has_tdx =
        parameter.is_ok_and(|tdx| tdx.trim() == "Y").then(|| "this machine has TDX and would start".to_owned());
    let no_tdx_kvm = no_tdx.clone().or(no_kvm.clone()).or(has_tdx);

    let unix = || common::tdx(QuoteSocket::Unix("/run/qgs".into()));
    let vsock = || common::tdx(QuoteSocket::Vsock { cid: 2, port: 4050 });
    let kvm = |machine: Machine| Machine { accel: Accel::Kvm, ..machine };
    let debian = PathBuf::from("qemu-system-x86_64");
    let needs_kvm = "cannot set up private guest memory for tdx-guest: KVM required";
    let misspelt = ("sept-ve-disable", "sept-ve-disabled");
    let wrong_type = (r#""type":"unix""#, r#""type":"unox""#);
    let no_change = ("", "");
    let cases = [
        ("tdx_unix_socket", &no_tdx, &tdx, unix(), no_change, needs_kvm),
        ("tdx_vsock", &no_tdx, &tdx, vsock(), no_change, needs_kvm),
        ("tdx_misspelt", &no_tdx, &tdx, unix(), misspelt, "Parameter 'sept-ve-disabled' is unexpected"),
        ("tdx_socket_type", &no_tdx, &tdx, unix(), wrong_type, "does not accept value 'unox'"),
        ("tdx_under_kvm", &no_tdx_kvm, &tdx, kvm(unix()), no_change, "vm-type TDX not supported by KVM"),
        ("tdx_object_missing", &None, &debian, unix(), no_change, "'qom-type' does not accept value 'tdx-guest'"),
        (
            "snp_under_kvm",
            &no_kvm.clone().or(has_snp),
            &debian,
            kvm(common::snp([0xab; 32])),
            no_change,
            "vm-type SEV-SNP not supported by KVM",
        ),
    ];
    let trials = cases.into_iter().map(|(name, ignored, qemu, machine, (from, to), expected)| {
        let qemu = qemu.clone();
        let test = move || {
            let change = |arguments: &mut Vec<std::ffi::OsString>| {
                for argument in arguments.iter_mut().filter(|_| !from.is_empty()) {
                    *argument = argument.to_str().unwrap().replace(from, to).into();
                }
            };
            let (_, stderr) = common::run(&qemu, &machine, change, &[]);
            // QEMU 11 warns of `-mon`, which has no other name in the QEMU 8.2 that we still start.
            let lines = stderr.lines().filter(|line| !line.contains(": warning: '-mon' is deprecated"));
            match lines.collect::<Vec<_>>().as_slice() {
                [line] if line.ends_with(expected) => Ok(()),
                _ => Err(format!("expected one line that ends with {expected:?}, found {stderr:?}").into()),
            }
        };
        match ignored {
            Some(reason) => Trial::test(format!("{name} (not run: {reason})"), test).with_ignored_flag(true),
            None => Trial::test(name, test),
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
