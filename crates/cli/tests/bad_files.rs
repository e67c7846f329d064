//! What is no file of the right kind, and an output that nobody reads: one line, and the right exit code.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with files of which none is what it is taken for.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn belljar(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_belljar"));
        command.env_clear().env("HOME", self.path()).current_dir(self.path()).stdin(Stdio::null()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.belljar(args).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Ends with 2 and one line that holds these words.
fn is_usage(desk: &Desk, args: &[&str], words: &str) {
    let output = desk.run(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert!(said.contains(words) && said.lines().count() == 1, "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn an_output_that_nobody_reads_changes_no_verdict() {
    let desk = Desk::new();
    desk.write("garbage", b"hello");
    desk.write("report", &[0; 1184]);
    let verify = ["evidence", "verify", "garbage"];
    let inspect = ["evidence", "inspect", "report", "--kind", "snp"];
    let measure = ["measure", "tpm", "--initdata", "garbage"];
    let json = ["--format", "json"];
    for (args, code) in [(&verify[..], 1), (&inspect[..], 0), (&measure[..], 0)] {
        for format in [&[][..], &json] {
            let args = [args, format].concat();
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let closed = desk.belljar(&args).stdout(writer).output().unwrap();
            assert_eq!((closed.status.code(), stderr(&closed).as_str()), (Some(code), ""), "{args:?}");
            let full = File::options().write(true).open("/dev/full").unwrap();
            let full = desk.belljar(&args).stdout(full).output().unwrap();
            let said = stderr(&full);
            assert_eq!(full.status.code(), Some(3), "{args:?}: {said}");
            assert!(said.contains("cannot write to standard output") && said.lines().count() == 1, "{args:?}: {said}");
            assert_eq!(desk.run(&args).status.code(), Some(code), "{args:?}");
        }
    }
}

#[test]
fn what_cannot_be_measured_is_a_mistake_of_the_caller() {
    let desk = Desk::new();
    desk.write("file", &[7; 4096]);
    let snp = |ovmf: &str, kernel: &str, more: &[&str]| {
        let args = ["measure", "snp", "--ovmf", ovmf, "--kernel", kernel, "--initrd", "file"];
        [&args, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let software = |firmware: &str, more: &[&str]| {
        let args = ["measure", "software", "--firmware", firmware, "--kernel", "file", "--initrd", "file"];
        [&args, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let tdx = |firmware: &str| ["measure", "tdx", "--firmware", firmware].map(str::to_owned).to_vec();
    let cases = [
        (snp("none", "file", &[]), "cannot read none"),
        (snp(".", "file", &[]), "cannot read .: Is a directory"),
        (snp("/dev/zero", "file", &[]), "/dev/zero has more than"),
        (snp("file", "none", &[]), "cannot read none"),
        (snp("file", "file", &[]), "it has no table of GUIDs"),
        (snp("file", "file", &["--vcpus", "0"]), "0 vCPUs is not between"),
        (snp("file", "file", &["--append", " quiet"]), "white space"),
        (software("none", &[]), "cannot read none"),
        (software("file", &["--vcpus", "513"]), "513 vCPUs is not between"),
        (tdx("none"), "cannot read none"),
        (tdx("file"), "it has no table of GUIDs"),
    ];
    for (args, words) in cases {
        is_usage(&desk, &args.iter().map(String::as_str).collect::<Vec<_>>(), words);
    }
    // A twin: all that can be measured is.
    let args = software("file", &["--vcpus", "512"]);
    assert_eq!(desk.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).status.code(), Some(0));
}

#[test]
fn an_enclave_is_read_within_bounds() {
    let desk = Desk::new();
    desk.write("file", &[7; 4096]);
    is_usage(&desk, &["measure", "sgx", "/dev/zero"], "/dev/zero is longer than");
    is_usage(&desk, &["measure", "sgx", "file"], "no sigstruct in this file");
}

#[test]
fn what_is_no_collateral_is_told_apart() {
    let desk = Desk::new();
    desk.write("file", b"hello");
    desk.write("report", &[0; 1184]);
    std::fs::create_dir(desk.path().join("cache")).unwrap();
    let verify = ["evidence", "verify", "report", "--kind", "snp", "--collateral"];
    let with = |more: &[&'static str]| [&verify[..], more].concat();
    is_usage(&desk, &["collateral", "verify", "none"], "cannot read none: No such file");
    is_usage(&desk, &["collateral", "verify", "none", "--key", "file"], "cannot read none: No such file");
    is_usage(&desk, &["collateral", "verify", "file"], "file is a file: give --key,");
    is_usage(&desk, &with(&["none"]), "cannot read none: No such file");
    is_usage(&desk, &with(&["file"]), "file is a file: give --bundle-key,");
    // Nobody signs a directory, be it of plain files or a cache, and also one with nothing in it yet.
    is_usage(&desk, &with(&["cache", "--bundle-key", "file"]), "leave --bundle-key out");
    assert_eq!(desk.run(&with(&["cache"])).status.code(), Some(1));
}

/// What is missing of AMD's evidence is named with what brings it.
#[test]
fn a_missing_certificate_has_a_hint() {
    let desk = Desk::new();
    let mut report = [0; 1184];
    if let Some(version) = report.first_mut() {
        *version = 3;
    }
    if let Some(algorithm) = report.get_mut(0x34) {
        *algorithm = 1;
    }
    desk.write("report", &report);
    let output = desk.run(&["evidence", "verify", "report"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    let first = said.lines().next().unwrap_or_default();
    assert!(first.contains("could not decide at report-signature") && first.contains("--vek FILE"), "{first}");
}
