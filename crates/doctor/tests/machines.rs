//! Machines that nobody here has, and what the doctor says about each. Every lack has a twin without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use belljar_doctor::{
    Access, Area, Cpuid, Directory, Failure, GuestImage, Host, Inputs, KvmProbe, Machine, Report, State, examine,
};

/// A machine made of tables. What is in no table is not there.
#[derive(Debug, Clone, Default)]
struct Fake {
    files: BTreeMap<String, String>,
    devices: BTreeMap<String, Access>,
    cpuid: BTreeMap<(u32, u32), Cpuid>,
    programs: BTreeMap<String, Result<String, Failure>>,
    free: u64,
    root: bool,
}

impl Machine for Fake {
    fn read(&self, path: &str) -> Option<String> {
        self.files.get(path).cloned()
    }
    fn exists(&self, path: &str) -> bool {
        let below = |key: &String| Path::new(key).starts_with(path);
        self.files.keys().chain(self.devices.keys()).any(below)
    }
    fn open(&self, path: &str) -> Access {
        self.devices.get(path).cloned().unwrap_or(Access::Missing)
    }
    fn connect(&self, path: &str) -> Access {
        self.open(path)
    }
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> Cpuid {
        self.cpuid.get(&(leaf, sub_leaf)).copied().unwrap_or_default()
    }
    fn run(&self, program: &OsStr, arguments: &[&str]) -> Result<String, Failure> {
        let line = format!("{} {}", program.to_str().unwrap(), arguments.join(" "));
        self.programs.get(&line).cloned().unwrap_or(Err(Failure::NotFound))
    }
    fn free_bytes(&self, _: &Path) -> Option<u64> {
        Some(self.free)
    }
    fn is_root(&self) -> bool {
        self.root
    }
}

impl Fake {
    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }
    fn without(mut self, path: &str) -> Self {
        assert!(self.files.remove(path).is_some() | self.devices.remove(path).is_some(), "{path} was not there");
        self
    }
    fn device(mut self, path: &str, access: Access) -> Self {
        self.devices.insert(path.into(), access);
        self
    }
    fn cpuid(mut self, leaf: u32, sub_leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> Self {
        self.cpuid.insert((leaf, sub_leaf), Cpuid { eax, ebx, ecx, edx });
        self
    }
    fn program(mut self, line: &str, output: Result<&str, Failure>) -> Self {
        self.programs.insert(line.into(), output.map(str::to_owned));
        self
    }
    fn report(&self) -> Report {
        self.report_with(&inputs())
    }
    fn report_with(&self, inputs: &Inputs) -> Report {
        let report = examine(self, inputs);
        consistent(&report);
        report
    }

    /// What every healthy machine has.
    fn linux(kernel: &str) -> Self {
        Self { free: 100 << 30, ..Self::default() }
            .file("/proc/sys/kernel/osrelease", kernel)
            .file("/proc/cpuinfo", "flags\t: fpu vme\n")
            .file("/proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:   8192000 kB\n")
            .file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc")
            .file("/proc/sys/user/max_user_namespaces", "63512")
            .file("/proc/sys/kernel/yama/ptrace_scope", "0")
            .device("/dev/kvm", Access::Opens)
            .device("/dev/vhost-vsock", Access::Opens)
            .device("/dev/vhost-net", Access::Opens)
            .device("/dev/net/tun", Access::Opens)
            .device("/run/containerd/containerd.sock", Access::Opens)
            .program(
                "containerd --version",
                Ok("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n"),
            )
            .program(
                "qemu-system-x86_64 --version",
                Ok("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\n"),
            )
            .program(
                "qemu-system-x86_64 -object help",
                Ok("List of user creatable objects:\n  rng-random\n  sev-guest\n  sev-snp-guest\n"),
            )
    }

    /// A server with EPYC 9004, all of SNP switched on.
    fn snp_host() -> Self {
        Self::linux("6.12.95+deb12-amd64")
            .cpuid(0, 0, vendor(b"AuthenticAMD", 0x10))
            .cpuid(1, 0, [0x00a1_0f11, 0, 0, 0])
            .cpuid(0x8000_0000, 0, [0x8000_0028, 0, 0, 0])
            .cpuid(0x8000_0001, 0, [0, 0, 1 << 2, 0])
            .cpuid(0x8000_0002, 0, words(b"AMD EPYC 9354   "))
            .cpuid(0x8000_0003, 0, words(b"32-Core Processo"))
            .cpuid(0x8000_0004, 0, words(b"r\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"))
            .cpuid(0x8000_001f, 0, [0b1_1011, 0, 1006, 100])
            .file("/sys/module/kvm_amd/parameters/sev", "Y")
            .file("/sys/module/kvm_amd/parameters/sev_es", "Y")
            .file("/sys/module/kvm_amd/parameters/sev_snp", "Y")
            .device("/dev/sev", Access::Opens)
    }

    /// A server with a 5th-generation Xeon, all of TDX and SGX switched on.
    fn tdx_host() -> Self {
        Self::linux("6.18.3+deb13-amd64")
            .cpuid(0, 0, vendor(b"GenuineIntel", 0x20))
            .cpuid(1, 0, [0x000c_06f2, 0, 1 << 5, 0])
            .cpuid(7, 0, [2, 1 << 2, 1 << 30, 0])
            .cpuid(0x12, 0, [3, 0, 0, 0])
            .cpuid(0x12, 2, [1, 0x40, 0x0000_0001, 0x1])
            .cpuid(0x12, 3, [1, 0x40, 0x8000_0001, 0])
            .cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0])
            .cpuid(0x8000_0002, 0, words(b"INTEL(R) XEON(R)"))
            .cpuid(0x8000_0003, 0, words(b" PLATINUM 8592+ "))
            .file("/proc/cpuinfo", "flags\t: fpu vmx tdx_host_platform\n")
            .file("/sys/module/kvm_intel/parameters/tdx", "Y")
            .device("/dev/sgx_enclave", Access::Opens)
            .device("/dev/sgx_provision", Access::Opens)
            .device("/var/run/aesmd/aesm.socket", Access::Opens)
            .device("/var/run/tdx-qgs/qgs.socket", Access::Opens)
            .program("qemu-system-x86_64 --version", Ok("QEMU emulator version 11.1.3\n"))
            .program("qemu-system-x86_64 -object help", Ok("  sev-snp-guest\n  tdx-guest\n"))
    }

    /// A consumer laptop: virtualisation and nothing confidential.
    fn laptop() -> Self {
        Self::linux("6.12.95+deb12-amd64")
            .cpuid(0, 0, vendor(b"GenuineIntel", 0x16))
            .cpuid(1, 0, [0x0008_06ea, 0, 1 << 5, 0])
            .cpuid(7, 0, [0, 0, 0, 0])
            .file("/proc/sys/kernel/yama/ptrace_scope", "1")
    }

    /// A container in a virtual machine, with nothing in it.
    fn container() -> Self {
        Self { free: 1 << 20, root: true, ..Self::default() }
            .file("/proc/sys/kernel/osrelease", "5.10.0-30-amd64")
            .file("/proc/meminfo", "MemTotal: 524288 kB\nMemAvailable: 102400 kB\n")
            .cpuid(0, 0, vendor(b"AuthenticAMD", 0x10))
            .cpuid(1, 0, [0x00a1_0f11, 0, 1 << 31, 0])
            .cpuid(0x4000_0000, 0, hypervisor(b"KVMKVMKVM\0\0\0"))
            .cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0])
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

fn words(text: &[u8; 16]) -> [u32; 4] {
    [0, 4, 8, 12].map(|at| word(&text[at..at + 4]))
}

/// Leaf 0: the name stands in EBX, EDX, ECX.
fn vendor(name: &[u8; 12], leaves: u32) -> [u32; 4] {
    [leaves, word(&name[..4]), word(&name[8..]), word(&name[4..8])]
}

/// Leaf 4000_0000h: the name stands in EBX, ECX, EDX.
fn hypervisor(name: &[u8; 12]) -> [u32; 4] {
    [0x4000_0001, word(&name[..4]), word(&name[4..8]), word(&name[8..])]
}

fn inputs() -> Inputs {
    Inputs {
        kvm: KvmProbe::Runs,
        guest_image: GuestImage::Complete { dir: "/img".into(), version: "6.12.95".into() },
        qemu: None,
        directories: vec![Directory { name: "image store".into(), path: "/store".into(), need_bytes: 4 << 30 }],
    }
}

/// Rules that hold for every report.
fn consistent(report: &Report) {
    let mut seen = std::collections::BTreeSet::new();
    for row in &report.rows {
        assert!(seen.insert(format!("{:?} {}", row.area, row.what)), "{row:?} stands there twice");
        assert_eq!(row.next.is_some(), matches!(row.state, State::Missing | State::Problem), "{row:?}");
        assert!(!row.found.is_empty() && row.next.as_deref() != Some(""), "{row:?}");
        let texts = format!("{}{}{}", row.what, row.found, row.next.as_deref().unwrap_or_default());
        assert!(!texts.contains('\n') && !texts.contains("  "), "{row:?}");
    }
}

/// (area, fact, state, part of what was found, part of the next step)
type Expected = (Area, &'static str, State, &'static str, &'static str);

#[track_caller]
fn expect(report: &Report, rows: &[Expected]) {
    for (area, what, state, found, next) in rows {
        let row = report.row(*area, what).unwrap_or_else(|| panic!("no row {area:?} {what}"));
        assert_eq!(row.state, *state, "{row:?}");
        assert!(row.found.contains(found), "{row:?} does not say {found}");
        assert!(row.next.as_deref().unwrap_or_default().contains(next), "{row:?} does not advise {next}");
    }
}

#[track_caller]
fn all_ok(report: &Report, area: Area, count: usize) {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.area == area).collect();
    assert_eq!(rows.len(), count, "{rows:#?}");
    assert!(report.all_ok(area), "{rows:#?}");
}

use State::{Missing, NotApplicable, Ok as Good, Problem};

#[test]
fn an_snp_host_is_complete() {
    let report = Fake::snp_host().report();
    all_ok(&report, Area::Snp, 5);
    all_ok(&report, Area::Machine, 3);
    all_ok(&report, Area::Kvm, 3);
    all_ok(&report, Area::System, 3);
    assert!(report.can_run());
    expect(
        &report,
        &[
            (Area::Machine, "cpu", Good, "AMD EPYC 9354 32-Core Processor", ""),
            (Area::Snp, "cpu", Good, "SEV, SEV-ES, SEV-SNP", ""),
            (Area::Snp, "guests at once", Good, "99 SNP guests of 1006", ""),
            (Area::Tdx, "cpu", NotApplicable, "not an Intel", ""),
            (Area::Sgx, "cpu", NotApplicable, "not an Intel", ""),
            (Area::Qemu, "sev-snp-guest object", Good, "known", ""),
            (Area::Qemu, "tdx-guest object", NotApplicable, "no TDX here", ""),
        ],
    );
}

#[test]
fn each_lack_of_an_snp_host_has_its_step() {
    let one = |machine: Fake, expected: Expected| expect(&machine.report(), &[expected]);
    let sev_leaf = |eax, edx| Fake::snp_host().cpuid(0x8000_001f, 0, [eax, 0, 1006, edx]);
    one(sev_leaf(0b0_1011, 100), (Area::Snp, "cpu", Missing, "SEV, SEV-ES, no SEV-SNP", "EPYC 7003"));
    one(sev_leaf(0, 100), (Area::Snp, "cpu", Missing, "no memory encryption", "EPYC 7003"));
    one(sev_leaf(0b1_1011, 1), (Area::Snp, "guests at once", Problem, "0 of 1006", "SEV-ES ASID Space Limit = 100"));
    one(
        Fake::snp_host().file("/proc/sys/kernel/osrelease", "6.10.11-amd64"),
        (Area::Snp, "kernel", Problem, "6.10.11, needs 6.11", "bookworm-backports linux-image-amd64"),
    );
    let parameter = |name: &str| format!("/sys/module/kvm_amd/parameters/{name}");
    one(
        Fake::snp_host().file(&parameter("sev_snp"), "N"),
        (Area::Snp, "kvm_amd parameters", Problem, "sev_snp is off", "SEV-SNP Support = Enabled"),
    );
    one(
        Fake::snp_host().without(&parameter("sev_snp")),
        (Area::Snp, "kvm_amd parameters", Missing, "unknown to this kernel", "linux-image-amd64"),
    );
    one(
        Fake::snp_host().file(&parameter("sev"), "N").file(&parameter("sev_snp"), "N"),
        (Area::Snp, "kvm_amd parameters", Problem, "sev is off", "kvm_amd.sev=1"),
    );
    one(
        Fake::snp_host().without(&parameter("sev")).without(&parameter("sev_es")).without(&parameter("sev_snp")),
        (Area::Snp, "kvm_amd parameters", Missing, "not loaded", "modprobe kvm_amd"),
    );
    one(Fake::snp_host().without("/dev/sev"), (Area::Snp, "/dev/sev", Missing, "absent", "modprobe ccp"));
    one(
        Fake::snp_host().device("/dev/sev", Access::Denied),
        (Area::Snp, "/dev/sev", Problem, "permission denied", "adduser $USER kvm"),
    );
    one(
        Fake::snp_host().program("qemu-system-x86_64 -object help", Ok("  tdx-guest\n")),
        (Area::Qemu, "sev-snp-guest object", Missing, "unknown", "qemu-system-x86"),
    );
}

#[test]
fn a_tdx_host_is_complete() {
    let report = Fake::tdx_host().report();
    all_ok(&report, Area::Tdx, 4);
    all_ok(&report, Area::Sgx, 7);
    all_ok(&report, Area::Qemu, 3);
    expect(
        &report,
        &[
            (Area::Tdx, "cpu", Good, "family 6, model 0xcf", ""),
            (Area::Sgx, "enclave memory", Good, "6144 MiB", ""),
            (Area::Snp, "cpu", NotApplicable, "not an AMD", ""),
        ],
    );
}

#[test]
fn each_lack_of_a_tdx_host_has_its_step() {
    let one = |machine: Fake, expected: Expected| expect(&machine.report(), &[expected]);
    let hidden = || Fake::tdx_host().file("/proc/cpuinfo", "flags\t: fpu vmx\n");
    one(hidden(), (Area::Tdx, "cpu", Problem, "firmware does not offer it", "SEAM Loader) = Enabled"));
    let old = hidden().file("/proc/sys/kernel/osrelease", "6.12.95").report();
    expect(&old, &[(Area::Tdx, "cpu", NotApplicable, "a kernel from 6.16 on can tell", "")]);
    expect(&old, &[(Area::Tdx, "kernel", Problem, "6.12.95, needs 6.16", "trixie-backports")]);
    one(
        hidden().cpuid(1, 0, [0x0008_06ea, 0, 1 << 5, 0]),
        (Area::Tdx, "cpu", Missing, "model 0x8e", "5th-generation Xeon"),
    );
    one(
        hidden().cpuid(1, 0, [0x000c_06f2, 0, 1 << 5 | 1 << 31, 0]),
        (Area::Tdx, "cpu", Missing, "hypervisor", "bare-metal"),
    );
    let tdx = "/sys/module/kvm_intel/parameters/tdx";
    one(
        Fake::tdx_host().file(tdx, "N"),
        (Area::Tdx, "kvm_intel parameter", Problem, "tdx is off", "nohibernate kvm_intel.tdx=1"),
    );
    one(
        Fake::tdx_host().without(tdx).file("/sys/module/kvm_intel/parameters/ept", "Y"),
        (Area::Tdx, "kvm_intel parameter", Missing, "unknown to this kernel", "linux-image-amd64"),
    );
    one(Fake::tdx_host().without(tdx), (Area::Tdx, "kvm_intel parameter", Missing, "not loaded", "modprobe kvm_intel"));
    let qgs = "/var/run/tdx-qgs/qgs.socket";
    one(Fake::tdx_host().without(qgs), (Area::Tdx, "quoting service", Missing, qgs, "install tdx-qgs"));
    one(
        Fake::tdx_host().device(qgs, Access::Fails("connection refused".into())),
        (Area::Tdx, "quoting service", Problem, "connection refused", "systemctl restart qgsd"),
    );
    one(
        Fake::tdx_host().program("qemu-system-x86_64 -object help", Ok("  sev-snp-guest\n")),
        (Area::Qemu, "tdx-guest object", Missing, "10.1", "trixie-backports qemu-system-x86"),
    );
}

#[test]
fn each_lack_of_sgx_has_its_step() {
    let one = |machine: Fake, expected: Expected| expect(&machine.report(), &[expected]);
    let leaf7 = |ebx, ecx| Fake::tdx_host().cpuid(7, 0, [2, ebx, ecx, 0]);
    one(leaf7(0, 1 << 30), (Area::Sgx, "cpu", Missing, "no SGX", "Ice Lake"));
    one(leaf7(1 << 2, 0), (Area::Sgx, "launch control", Problem, "no FLC", "Launch Control Policy = Unlocked"));
    one(
        Fake::tdx_host().cpuid(0x12, 0, [0, 0, 0, 0]),
        (Area::Sgx, "cpu", Problem, "switched off by the firmware", "SW Guard Extensions (SGX) = Enabled"),
    );
    one(Fake::tdx_host().cpuid(0x12, 2, [0, 0, 0, 0]), (Area::Sgx, "enclave memory", Problem, "none", "PRMRR"));
    one(
        Fake::tdx_host().without("/dev/sgx_enclave"),
        (Area::Sgx, "/dev/sgx_enclave", Missing, "absent", "CONFIG_X86_SGX"),
    );
    one(
        Fake::tdx_host().device("/dev/sgx_provision", Access::Denied),
        (Area::Sgx, "/dev/sgx_provision", Problem, "permission denied", "sgx_prv"),
    );
    let aesm = "/var/run/aesmd/aesm.socket";
    one(Fake::tdx_host().without(aesm), (Area::Sgx, "quoting service", Missing, aesm, "sgx-aesm-service"));
}

#[test]
fn a_laptop_runs_the_software_tee() {
    let report = Fake::laptop().report();
    assert!(report.can_run());
    expect(
        &report,
        &[
            (Area::Snp, "cpu", NotApplicable, "not an AMD", ""),
            (Area::Tdx, "cpu", Missing, "model 0x8e", "Xeon"),
            (Area::Sgx, "cpu", Missing, "no SGX", "Ice Lake"),
            (Area::TeeGuest, "kind", NotApplicable, "not a confidential VM", ""),
            (Area::Kvm, "cpu", Good, "VT-x", ""),
            (Area::Kvm, "runs a guest", Good, "yes", ""),
            (Area::Qemu, "tdx-guest object", NotApplicable, "no TDX here", ""),
            (Area::System, "reading a pod's memory", Problem, "ptrace_scope is 1", "as root"),
        ],
    );
}

#[test]
fn a_bare_container_lacks_nearly_everything() {
    let report = Fake::container().report_with(&Inputs {
        kvm: KvmProbe::NotTried,
        guest_image: GuestImage::Absent { dir: "/img".into() },
        ..inputs()
    });
    assert!(!report.can_run());
    expect(
        &report,
        &[
            (Area::Machine, "cpu", Good, "in a virtual machine (KVM)", ""),
            (Area::Machine, "kernel", Problem, "5.10, needs 5.14", "linux-image-amd64"),
            (Area::Machine, "memory", Problem, "100 MiB available of 512 MiB", "at least 512 MiB"),
            (Area::Snp, "cpu", Missing, "does not pass SNP on", "bare-metal"),
            (Area::Kvm, "cpu", Missing, "no SVM", "nested virtualisation"),
            (Area::Kvm, "/dev/kvm", Missing, "absent", "--device /dev/kvm"),
            (Area::Kvm, "runs a guest", NotApplicable, "no device", ""),
            (Area::Devices, "/dev/vhost-vsock", Missing, "virtio-serial", "modprobe vhost_vsock"),
            (Area::Devices, "/dev/vhost-net", Missing, "absent", "modprobe vhost_net"),
            (Area::Devices, "/dev/net/tun", Missing, "absent", "modprobe tun"),
            (Area::Qemu, "version", Missing, "no qemu-system-x86_64", "apt install -t bookworm-backports"),
            (Area::GuestImage, "files", Missing, "/img", "belljar guest build"),
            (Area::Containerd, "version", Missing, "no containerd", "apt install containerd"),
            (Area::System, "cgroup v2", Missing, "not mounted", "systemd.unified_cgroup_hierarchy=1"),
            (Area::System, "user namespaces", Missing, "none", "CONFIG_USER_NS"),
            (Area::System, "reading a pod's memory", Good, "root", ""),
            (Area::Space, "image store", Problem, "1 MiB free in /store", "4096 MiB"),
        ],
    );
}

#[test]
fn kvm_that_opens_and_does_not_run() {
    let fails = Inputs { kvm: KvmProbe::Fails("the guest hung".into()), ..inputs() };
    expect(
        &Fake::laptop().report_with(&fails),
        &[(Area::Kvm, "runs a guest", Problem, "no: the guest hung", "bare metal")],
    );
    let denied = Fake::laptop().device("/dev/kvm", Access::Denied);
    expect(
        &denied.report_with(&fails),
        &[
            (Area::Kvm, "/dev/kvm", Problem, "permission denied", "adduser $USER kvm"),
            (Area::Kvm, "runs a guest", NotApplicable, "no device to try with", ""),
        ],
    );
    let untried = Inputs { kvm: KvmProbe::NotTried, ..inputs() };
    expect(&Fake::laptop().report_with(&untried), &[(Area::Kvm, "runs a guest", NotApplicable, "not tried", "")]);
    let no_feature = Fake::laptop().cpuid(1, 0, [0x0008_06ea, 0, 0, 0]);
    expect(&no_feature.report(), &[(Area::Kvm, "cpu", Missing, "no VT-x", "BIOS")]);
}

#[test]
fn qemu() {
    let version = "qemu-system-x86_64 --version";
    let with = |output| Fake::laptop().program(version, output);
    let old = with(Ok("QEMU emulator version 7.2.15 (Debian 1:7.2+dfsg-7+deb12u13)\n")).report();
    expect(&old, &[(Area::Qemu, "version", Problem, "7.2.15, needs 10.0", "bookworm-backports")]);
    assert!(!old.can_run());
    expect(&with(Ok("hello")).report(), &[(Area::Qemu, "version", Problem, "names no version", "apt")]);
    let hangs = with(Err(Failure::Failed("gave no answer in 5 s".into()))).report();
    expect(&hangs, &[(Area::Qemu, "version", Problem, "gave no answer", "apt")]);
    let broken = Fake::laptop().program("qemu-system-x86_64 -object help", Err(Failure::Failed("x".into())));
    expect(&broken.report(), &[(Area::Qemu, "objects", Problem, "fails", "apt")]);
    let own = Inputs { qemu: Some("/opt/qemu".into()), ..inputs() };
    expect(&Fake::laptop().report_with(&own), &[(Area::Qemu, "version", Missing, "no /opt/qemu", "apt")]);
}

#[test]
fn a_confidential_guest_says_so() {
    let guest =
        Fake::container().device("/dev/sev-guest", Access::Opens).file("/sys/kernel/config/tsm/report/.keep", "");
    all_ok(&guest.report(), Area::TeeGuest, 2);
    expect(&guest.report(), &[(Area::TeeGuest, "kind", Good, "AMD SEV-SNP guest", "")]);
    let without = guest.without("/sys/kernel/config/tsm/report/.keep");
    expect(&without.report(), &[(Area::TeeGuest, "reports", Missing, "no configfs", "mount -t configfs")]);
    let denied = without.device("/dev/sev-guest", Access::Denied);
    expect(&denied.report(), &[(Area::TeeGuest, "kind", Problem, "permission denied", "as root")]);
    let tdx = Fake::container().device("/dev/tdx_guest", Access::Opens).file("/sys/kernel/config/x/y", "");
    expect(
        &tdx.report(),
        &[
            (Area::TeeGuest, "kind", Good, "Intel TDX guest", ""),
            (Area::TeeGuest, "reports", Missing, "tsm/report", "6.7"),
        ],
    );
}

#[test]
fn system_and_containerd() {
    let one = |machine: Fake, expected: Expected| expect(&machine.report(), &[expected]);
    one(
        Fake::laptop().file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io"),
        (Area::System, "cgroup v2", Problem, "without memory, pids", "cgroup_disable"),
    );
    one(
        Fake::laptop()
            .without("/sys/fs/cgroup/cgroup.controllers")
            .file("/sys/fs/cgroup/unified/cgroup.controllers", ""),
        (Area::System, "cgroup v2", Missing, "mixed with v1", "unified_cgroup_hierarchy"),
    );
    one(
        Fake::laptop().file("/proc/sys/user/max_user_namespaces", "0"),
        (Area::System, "user namespaces", Problem, "switched off", "max_user_namespaces=15000"),
    );
    let clone = |root| Fake { root, ..Fake::laptop().file("/proc/sys/kernel/unprivileged_userns_clone", "0") };
    one(clone(false), (Area::System, "user namespaces", Problem, "root only", "unprivileged_userns_clone=1"));
    one(clone(true), (Area::System, "user namespaces", Good, "at most 63512", ""));
    let scope = |scope: &str, root| Fake { root, ..Fake::laptop().file("/proc/sys/kernel/yama/ptrace_scope", scope) };
    one(scope("3", true), (Area::System, "reading a pod's memory", Problem, "until the next boot", "sysctl.d"));
    one(scope("2", true), (Area::System, "reading a pod's memory", Good, "root", ""));
    one(scope("0", false), (Area::System, "reading a pod's memory", Good, "this user", ""));

    let socket = "/run/containerd/containerd.sock";
    one(Fake::laptop().without(socket), (Area::Containerd, "socket", Missing, socket, "systemctl start containerd"));
    one(
        Fake::laptop().device(socket, Access::Denied),
        (Area::Containerd, "socket", Problem, "permission denied", "run the doctor as root"),
    );
    one(
        Fake::laptop().program("containerd --version", Ok("containerd github.com/containerd/containerd 1.4.13 x\n")),
        (Area::Containerd, "version", Problem, "1.4.13, needs 1.6", "apt install containerd"),
    );
    let broken =
        Inputs { guest_image: GuestImage::Broken { dir: "/img".into(), why: "initrd was changed".into() }, ..inputs() };
    let report = Fake::laptop().report_with(&broken);
    expect(&report, &[(Area::GuestImage, "files", Problem, "initrd was changed", "belljar guest build")]);
    assert!(!report.can_run());
}

/// What `containerd config dump` says of a node that is prepared, as containerd 1.6 and 2.1 write it.
fn dump(plugin: &str, by_path: bool) -> String {
    let annotations = r#"["io.katacontainers.*", "belljar.dev/*"]"#;
    let handlers = belljar_node::HANDLERS.map(|handler| {
        format!(
            "[plugins.'{plugin}'.containerd.runtimes.{}]\nruntime_type = '{}'\nruntime_path = '/opt/belljar/bin/{}'\n\
             pod_annotations = {annotations}\ncontainer_annotations = {annotations}\n",
            handler.name,
            if by_path { format!("/opt/belljar/bin/{}", handler.shim) } else { handler.runtime_type.to_owned() },
            handler.shim
        )
    });
    format!("version = 2\n{}", handlers.concat())
}

#[test]
fn containerd_as_a_node_has_it() {
    let node = |dump: &str| {
        let node = Fake::laptop().program("containerd config dump", Ok(dump));
        belljar_node::HANDLERS.iter().fold(node, |node, handler| {
            node.program(&format!("/opt/belljar/bin/{} -v", handler.shim), Ok("containerd-shim-belljar-v2\n"))
        })
    };
    let area = Area::Containerd;
    // 1.6 ignores runtime_path, so its runtime_type must be the path
    let by_type = dump("io.containerd.grpc.v1.cri", false);
    expect(&node(&by_type).report(), &[(area, "handlers", Problem, "without belljar, belljar-snp", "node install")]);
    for plugin in ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"] {
        let two = plugin == "io.containerd.cri.v1.runtime";
        let node = |dump: &str| {
            let version =
                if two { "containerd github.com/containerd/containerd/v2 2.1.9 x" } else { "containerd x 1.6.20 x" };
            node(dump).program("containerd --version", Ok(version))
        };
        let good = dump(plugin, !two);
        expect(
            &node(&good).report(),
            &[
                (area, "handlers", Good, "belljar, belljar-snp", ""),
                (area, "annotations", Good, "handed on", ""),
                (area, "shim", Good, "starts", ""),
            ],
        );
        let install = "belljar node install";
        let cases: [(&str, &str, &str, &str); 3] = [
            ("runtimes.belljar-tdx]", "runtimes.other]", "handlers", "without belljar-tdx"),
            ("\"belljar.dev/*\"", "\"x\"", "annotations", "kept from belljar"),
            ("bin/containerd-shim-belljar-snp-v2", "bin/gone", "shim", "/opt/belljar/bin/gone is not there"),
        ];
        for (from, to, what, found) in cases {
            let report = node(&good.replacen(from, to, 1)).report();
            expect(&report, &[(area, what, Problem, found, install)]);
        }
    }
    let report = node("version = 2\n").report();
    expect(&report, &[(area, "handlers", Missing, "none of belljar", "belljar node install")]);
    assert!(report.can_run(), "only Kubernetes needs containerd");
    expect(&node("version = ").report(), &[(area, "handlers", Problem, "not TOML", "1.6 or newer")]);
}

#[test]
fn this_machine_gets_a_consistent_report() {
    let report = examine(&Host, &inputs());
    consistent(&report);
    for area in [Area::Machine, Area::Snp, Area::Tdx, Area::Sgx, Area::TeeGuest, Area::Kvm, Area::Devices] {
        assert!(report.rows.iter().any(|row| row.area == area), "nothing about {area:?}");
    }
}

#[test]
fn the_json_keeps_its_shape() {
    let json = serde_json::to_value(Fake::laptop().report()).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let find = |area: &str, what: &str| rows.iter().find(|row| row["area"] == area && row["what"] == what).unwrap();
    assert_eq!(
        find("tee-guest", "kind"),
        &serde_json::json!({
            "area": "tee-guest", "what": "kind", "state": "not-applicable",
            "found": "this machine is not a confidential VM", "next": null
        })
    );
    assert_eq!(find("kvm", "runs a guest")["state"], "ok");
}
