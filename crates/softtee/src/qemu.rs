//! What a QEMU command line boots, read strictly: an option that is not in the table below is refused.
//!
//! A measurement is only worth something if nothing that is not measured can change what runs first in the guest.
//! QEMU has many ways to do that: `-pflash`, `-device loader`, `-option-rom`, `-acpitable`, `-smbios`, `-dtb`,
//! `-global`, `-readconfig`, `-incoming`, and the next release may have more. So the table lists what is allowed, with
//! a rule for its value, and everything else is an error that names it.
//!
//! Three kinds of options are allowed:
//! 1. what is measured, exactly once each: `-bios`, `-kernel`, `-initrd`, `-append`, `-smp`;
//! 2. what the report carries: `-fw_cfg name=opt/org.belljar/host-data,string=HEX`, HOST_DATA;
//! 3. what gives the guest a machine and channels, as memory does: it is untrusted input to a guest that expects it.
//!
//! Of networks only `-netdev tap` on an inherited descriptor is allowed, with a device that has no option ROM: QEMU's
//! default for a network device is a file of code that firmware would run.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use serde_json::Value;

/// Most vCPUs of a command line.
const MAX_VCPUS: u32 = belljar_measure::MAX_VCPUS;
/// Item of fw_cfg that carries HOST_DATA.
const HOST_DATA_ITEM: &str = "opt/org.belljar/host-data";

/// Machine types, by name or as a version of one of them.
const MACHINES: [&str; 4] = ["q35", "pc-q35-", "pc", "pc-i440fx-"];
/// Machine properties that change neither firmware nor kernel.
const MACHINE_PROPERTIES: [&str; 18] = [
    "type",
    "accel",
    "acpi",
    "dump-guest-core",
    "graphics",
    "hpet",
    "i8042",
    "kernel-irqchip",
    "mem-merge",
    "memory-backend",
    "pic",
    "pit",
    "sata",
    "smbus",
    "smm",
    "suppress-vmdesc",
    "usb",
    "vmport",
];
/// Devices that bring no code into the guest's address space.
const DEVICES: [&str; 10] = [
    "pcie-root-port",
    "pvpanic-pci",
    "vhost-user-vsock-pci",
    "vhost-vsock-pci",
    "virtconsole",
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-rng-pci",
    "virtio-serial-pci",
    "virtserialport",
];
/// The device that has an option ROM unless told otherwise.
const NETWORK_DEVICE: &str = "virtio-net-pci";
/// Device properties that give the guest code, or change the order it boots in; an empty `romfile` is no code.
const DEVICE_PROPERTIES_REFUSED: [&str; 4] = ["bootindex", "romfile", "rombar", "romsize"];
/// Objects that hold nothing the guest boots from.
const OBJECTS: [&str; 5] = ["iothread", "memory-backend-memfd", "memory-backend-ram", "rng-builtin", "rng-random"];

/// Why a command line is not measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// Not UTF-8.
    #[error("QEMU argument {found:?} is not UTF-8: use plain paths and names")]
    NotText {
        /// The argument.
        found: OsString,
    },
    /// An argument without a dash, which QEMU takes as a disk image.
    #[error("QEMU argument {found:?} belongs to no option: start the VM with belljar's own command line")]
    Positional {
        /// The argument.
        found: String,
    },
    /// An option that may change what boots, or that this program does not know.
    #[error("QEMU option {option} is not allowed, it may change what boots: start the VM without it")]
    Option {
        /// The option, with its dash.
        option: String,
    },
    /// An option without its value.
    #[error("QEMU option {option} has no value: start the VM with belljar's own command line")]
    MissingValue {
        /// The option, with its dash.
        option: String,
    },
    /// An option that may stand once only.
    #[error("QEMU option {option} stands twice, only one of them would be measured: remove one")]
    Twice {
        /// The option, with its dash.
        option: String,
    },
    /// A value that may change what boots, or that cannot be read.
    #[error("QEMU option {option} has {found:?}, which is not allowed as it may change what boots: remove it")]
    Value {
        /// The option, with its dash.
        option: String,
        /// The part that is refused.
        found: String,
    },
    /// An option that is measured is not there.
    #[error("QEMU option {option} is missing, so there is nothing to measure: start the VM with it")]
    Missing {
        /// The option, with its dash.
        option: &'static str,
    },
}

/// What a QEMU command line boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Firmware, a path as QEMU sees it.
    pub firmware: String,
    /// Kernel, likewise.
    pub kernel: String,
    /// Initrd, likewise.
    pub initrd: String,
    /// Kernel command line; empty without `-append`.
    pub cmdline: String,
    /// Number of vCPUs; 1 without `-smp`.
    pub vcpus: u32,
    /// HOST_DATA; zeros, as in hardware, when it is not set.
    pub host_data: [u8; 32],
}

/// How the value of an option is judged.
enum Rule {
    /// The option has no value.
    Flag,
    /// Any value; it may stand several times.
    Any,
    /// Any value, once.
    Once,
    /// Only the values listed.
    OneOf(&'static [&'static str]),
    /// A rule of its own.
    Check(fn(&str) -> Result<(), String>),
    /// A value that the result holds, once.
    Take(fn(&mut Taken, &str) -> Result<(), String>),
}

/// The table: every option that a measured VM may have. `docs/software-tee.md` explains it.
const OPTIONS: &[(&str, Rule)] = &[
    // Measured.
    ("-bios", Rule::Take(|taken, value| path(value).map(|path| taken.firmware = Some(path)))),
    ("-kernel", Rule::Take(|taken, value| path(value).map(|path| taken.kernel = Some(path)))),
    ("-initrd", Rule::Take(|taken, value| path(value).map(|path| taken.initrd = Some(path)))),
    (
        "-append",
        Rule::Take(|taken, value| {
            taken.cmdline = Some(value.to_owned());
            Ok(())
        }),
    ),
    ("-smp", Rule::Take(|taken, value| smp(value).map(|vcpus| taken.vcpus = Some(vcpus)))),
    // Carried by the report.
    ("-fw_cfg", Rule::Take(|taken, value| host_data(value).map(|data| taken.host_data = Some(data)))),
    // The machine.
    ("-M", Rule::Check(machine)),
    ("-machine", Rule::Check(machine)),
    ("-accel", Rule::Check(|value| one_of(value, &["kvm", "tcg"]))),
    ("-cpu", Rule::Once),
    ("-m", Rule::Check(memory)),
    ("-object", Rule::Check(|value| first(value, "qom-type", &OBJECTS).map(drop))),
    ("-device", Rule::Check(device)),
    ("-netdev", Rule::Check(netdev)),
    ("-blockdev", Rule::Any),
    ("-drive", Rule::Check(drive)),
    // Channels.
    ("-add-fd", Rule::Any),
    ("-chardev", Rule::Any),
    ("-mon", Rule::Any),
    ("-qmp", Rule::Any),
    ("-serial", Rule::OneOf(&["none", "null"])),
    ("-parallel", Rule::OneOf(&["none", "null"])),
    ("-monitor", Rule::OneOf(&["none", "null"])),
    ("-display", Rule::OneOf(&["none"])),
    ("-vga", Rule::OneOf(&["none"])),
    ("-nic", Rule::OneOf(&["none"])),
    ("-net", Rule::OneOf(&["none"])),
    // The process.
    ("-name", Rule::Once),
    ("-msg", Rule::Any),
    ("-no-reboot", Rule::Flag),
    ("-no-shutdown", Rule::Flag),
    ("-no-user-config", Rule::Flag),
    ("-nodefaults", Rule::Flag),
    ("-overcommit", Rule::Any),
    ("-pidfile", Rule::Once),
    ("-rtc", Rule::Once),
    ("-run-with", Rule::Check(run_with)),
    ("-S", Rule::Flag),
    ("-sandbox", Rule::Once),
];

/// Values that have been taken so far.
#[derive(Default)]
struct Taken {
    firmware: Option<String>,
    kernel: Option<String>,
    initrd: Option<String>,
    cmdline: Option<String>,
    vcpus: Option<u32>,
    host_data: Option<[u8; 32]>,
}

impl CommandLine {
    /// Reads the arguments of a QEMU process, without the program's name.
    ///
    /// # Errors
    /// Any [`QemuError`]; the option at fault is named.
    pub fn parse<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Self, QemuError> {
        let mut taken = Taken::default();
        let mut seen = BTreeSet::new();
        let mut arguments = arguments.iter().map(|argument| text(argument.as_ref()));
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            if !argument.starts_with('-') {
                return Err(QemuError::Positional { found: argument.to_owned() });
            }
            // QEMU takes two dashes for one.
            let name = if argument.starts_with("--") { argument.get(1..).unwrap_or_default() } else { argument };
            let option = || name.to_owned();
            let Some((name, rule)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
                return Err(QemuError::Option { option: option() });
            };
            let once =
                matches!(rule, Rule::Once | Rule::Take(_)) || matches!(*name, "-M" | "-machine" | "-m" | "-accel");
            let key = if *name == "-M" { "-machine" } else { name };
            if once && !seen.insert(key) {
                return Err(QemuError::Twice { option: option() });
            }
            if let Rule::Flag = rule {
                continue;
            }
            let value = arguments.next().ok_or_else(|| QemuError::MissingValue { option: option() })??;
            let judged = match rule {
                Rule::Flag | Rule::Any | Rule::Once => Ok(()),
                Rule::OneOf(values) => one_of(value, values),
                Rule::Check(check) => check(value),
                Rule::Take(take) => take(&mut taken, value),
            };
            judged.map_err(|found| QemuError::Value { option: option(), found })?;
        }
        Ok(Self {
            firmware: taken.firmware.ok_or(QemuError::Missing { option: "-bios" })?,
            kernel: taken.kernel.ok_or(QemuError::Missing { option: "-kernel" })?,
            initrd: taken.initrd.ok_or(QemuError::Missing { option: "-initrd" })?,
            cmdline: taken.cmdline.unwrap_or_default(),
            vcpus: taken.vcpus.unwrap_or(1),
            host_data: taken.host_data.unwrap_or_default(),
        })
    }

    /// Reads arbitrary bytes, arguments closed by NUL as in `/proc/PID/cmdline`; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        use std::os::unix::ffi::OsStrExt;
        let arguments: Vec<_> = data.split(|&byte| byte == 0).map(OsStr::from_bytes).collect();
        let _ = Self::parse(&arguments);
    }
}

fn text(argument: &OsStr) -> Result<&str, QemuError> {
    argument.to_str().ok_or_else(|| QemuError::NotText { found: argument.to_owned() })
}

/// A file that both QEMU and we see under this name: nothing below `/dev` and `/proc`, which mean something else to us.
fn path(value: &str) -> Result<String, String> {
    let special = ["/dev", "/proc"]
        .iter()
        .any(|root| value.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    let dotted = value.split('/').any(|part| part == "..") || value.starts_with("//");
    if value.is_empty() || special || dotted { Err(value.to_owned()) } else { Ok(value.to_owned()) }
}

fn one_of(value: &str, allowed: &[&str]) -> Result<(), String> {
    let first = value.split(',').next().unwrap_or_default();
    if allowed.contains(&first) { Ok(()) } else { Err(value.to_owned()) }
}

fn smp(value: &str) -> Result<u32, String> {
    let mut vcpus = None;
    let mut most = None;
    for (key, number) in properties(value, "cpus")? {
        let refused = || format!("{key}={number}");
        let count: u32 = number.parse().map_err(|_| refused())?;
        match key.as_str() {
            "cpus" if vcpus.is_none() => vcpus = Some(count),
            "maxcpus" if most.is_none() => most = Some(count),
            "sockets" | "dies" | "clusters" | "modules" | "cores" | "threads" => {}
            _ => return Err(refused()),
        }
    }
    match vcpus {
        // A vCPU that is plugged later would not be measured. Room for a second one is what makes QEMU translate the memory
        // barriers of a machine with one; to plug it takes QEMU's monitor, which can change anything in the guest anyway.
        Some(vcpus)
            if (1..=MAX_VCPUS).contains(&vcpus) && most.is_none_or(|most| most == vcpus || (vcpus, most) == (1, 2)) =>
        {
            Ok(vcpus)
        }
        _ => Err(value.to_owned()),
    }
}

fn host_data(value: &str) -> Result<[u8; 32], String> {
    let (mut name, mut string) = (None, None);
    for (key, part) in properties(value, "name")? {
        match key.as_str() {
            "name" if name.is_none() => name = Some(part),
            "string" if string.is_none() => string = Some(part),
            _ => return Err(format!("{key}={part}")),
        }
    }
    if name.as_deref() != Some(HOST_DATA_ITEM) {
        return Err(value.to_owned());
    }
    let mut data = [0; 32];
    let string = string.ok_or_else(|| value.to_owned())?;
    hex::decode_to_slice(&string, &mut data).map_err(|_| string)?;
    Ok(data)
}

fn machine(value: &str) -> Result<(), String> {
    for (key, part) in properties(value, "type")? {
        let key = key.replace('_', "-");
        if !MACHINE_PROPERTIES.contains(&key.as_str()) {
            return Err(format!("{key}={part}"));
        }
        let known_type = MACHINES.iter().any(|known| part == *known || known.ends_with('-') && part.starts_with(known));
        if key == "type" && !known_type || key == "accel" && one_of(&part, &["kvm", "tcg"]).is_err() {
            return Err(format!("{key}={part}"));
        }
    }
    Ok(())
}

fn memory(value: &str) -> Result<(), String> {
    match properties(value, "size")?.as_slice() {
        [(key, _)] if key == "size" => Ok(()),
        _ => Err(value.to_owned()),
    }
}

fn device(value: &str) -> Result<(), String> {
    let properties = first(value, "driver", &DEVICES)?;
    let mut without_rom = false;
    for (key, part) in &properties {
        match key.as_str() {
            "romfile" if part.is_empty() => without_rom = true,
            key if DEVICE_PROPERTIES_REFUSED.contains(&key) => return Err(format!("{key}={part}")),
            _ => {}
        }
    }
    match without_rom || !properties.iter().any(|(key, part)| key == "driver" && part == NETWORK_DEVICE) {
        true => Ok(()),
        false => Err(NETWORK_DEVICE.to_owned()),
    }
}

/// A tap device on a descriptor that QEMU inherits, and nothing else: other kinds open files, connections and programs.
fn netdev(value: &str) -> Result<(), String> {
    for (key, part) in first(value, "type", &["tap"])? {
        let fits = match key.as_str() {
            "type" | "id" => true,
            "fd" => !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()),
            _ => false,
        };
        if !fits {
            return Err(format!("{key}={part}"));
        }
    }
    Ok(())
}

fn drive(value: &str) -> Result<(), String> {
    let properties = properties(value, "")?;
    let interface = properties.iter().filter(|(key, _)| key == "if").map(|(_, part)| part.as_str());
    match interface.collect::<Vec<_>>().as_slice() {
        ["none" | "virtio"] => Ok(()),
        // The default is the machine's own bus, from which firmware may boot.
        _ => Err(value.to_owned()),
    }
}

fn run_with(value: &str) -> Result<(), String> {
    for (key, part) in properties(value, "")? {
        if !matches!(key.as_str(), "async-teardown" | "exit-with-parent") {
            return Err(format!("{key}={part}"));
        }
    }
    Ok(())
}

/// The properties of a device or object, if its type is one of those allowed. QEMU takes JSON for these two, for `-netdev`
/// and for `-blockdev`, and for no other option of the table.
fn first(value: &str, key: &str, allowed: &[&str]) -> Result<Vec<(String, String)>, String> {
    let properties = if value.starts_with('{') { json(value)? } else { properties(value, key)? };
    let types = properties.iter().filter(|(name, _)| name == key).map(|(_, part)| part.as_str());
    match types.collect::<Vec<_>>().as_slice() {
        [one] if allowed.contains(one) => Ok(properties),
        [one] => Err((*one).to_owned()),
        _ => Err(value.to_owned()),
    }
}

/// The members of a JSON object; values that are no strings as JSON.
fn json(value: &str) -> Result<Vec<(String, String)>, String> {
    // QEMU refuses a key that stands twice, so it does not matter which one our parser takes.
    match serde_json::from_str(value) {
        Ok(Value::Object(object)) => Ok(object
            .into_iter()
            .map(|(key, part)| match part {
                Value::String(text) => (key, text),
                other => (key, other.to_string()),
            })
            .collect()),
        _ => Err(value.to_owned()),
    }
}

/// Splits `first,key=value,flag` (a comma in a value is doubled), where `implied` is the key of the first part.
fn properties(value: &str, implied: &str) -> Result<Vec<(String, String)>, String> {
    let mut parts = vec![String::new()];
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    let keyed = parts.into_iter().enumerate().map(|(index, part)| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None if index == 0 && !implied.is_empty() => (implied.to_owned(), part),
        None => (part, "on".to_owned()),
    });
    Ok(keyed.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `belljar-vmm` starts for the software TEE.
    const GOOD: &[&str] = &[
        "-name",
        "guest=belljar-1,debug-threads=off",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine",
        "q35,accel=tcg,memory-backend=ram,sata=off,smbus=off,vmport=off",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "512M",
        "-object",
        "memory-backend-memfd,id=ram,size=512M,share=on",
        "-fw_cfg",
        "name=opt/org.belljar/host-data,string=0101010101010101010101010101010101010101010101010101010101010101",
        "-bios",
        "/guest/qboot.rom",
        "-kernel",
        "/guest/vmlinux",
        "-initrd",
        "initrd",
        "-append",
        "console=hvc0 -kernel quiet,quiet",
        "-chardev",
        "socket,id=qmp,fd=3",
        "-mon",
        "chardev=qmp,mode=control",
        "-device",
        r#"{"driver":"virtio-serial-pci","id":"ports","addr":"1","max_ports":4}"#,
        "-device",
        "virtconsole,bus=ports.0,nr=0,chardev=console",
        "-add-fd",
        "fd=9,set=0,opaque=initdata",
        "-blockdev",
        r#"{"driver":"raw","node-name":"disk0","read-only":true}"#,
        "-device",
        r#"{"driver":"virtio-blk-pci","drive":"disk0","serial":"initdata","num-queues":1}"#,
    ];

    fn with(more: &[&str]) -> Result<CommandLine, QemuError> {
        CommandLine::parse(&[GOOD, more].concat())
    }

    /// The good command line with the value of one option changed.
    fn changed(option: &str, value: &str) -> Result<CommandLine, QemuError> {
        let mut arguments = GOOD.to_vec();
        let position = arguments.iter().position(|argument| *argument == option).unwrap();
        arguments[position + 1] = value;
        CommandLine::parse(&arguments)
    }

    fn without(option: &str) -> Result<CommandLine, QemuError> {
        let position = GOOD.iter().position(|argument| *argument == option).unwrap();
        CommandLine::parse(&[&GOOD[..position], &GOOD[position + 2..]].concat())
    }

    fn value(option: &str, found: &str) -> Result<CommandLine, QemuError> {
        Err(QemuError::Value { option: option.to_owned(), found: found.to_owned() })
    }

    #[test]
    fn the_vmms_own_command_line_is_read() {
        let read = with(&[]).unwrap();
        let expected = CommandLine {
            firmware: "/guest/qboot.rom".to_owned(),
            kernel: "/guest/vmlinux".to_owned(),
            initrd: "initrd".to_owned(),
            cmdline: "console=hvc0 -kernel quiet,quiet".to_owned(),
            vcpus: 2,
            host_data: [1; 32],
        };
        assert_eq!(read, expected);
        assert_eq!(without("-append").unwrap().cmdline, "");
        assert_eq!(without("-smp").unwrap().vcpus, 1);
        assert_eq!(without("-fw_cfg").unwrap().host_data, [0; 32]);
    }

    #[test]
    fn harmless_options_are_allowed() {
        for more in [
            &["-accel", "tcg,thread=single"][..],
            &["--serial", "none"],
            &["-nic", "none"],
            &["-device", "virtio-rng-pci,rng=r0"],
            &["-object", "rng-random,id=r0,filename=/dev/urandom"],
            &["-object", r#"{"qom-type":"iothread","id":"t0"}"#],
            &["-drive", "if=none,file=a,,b.img,format=raw,id=d0"],
            &["-run-with", "async-teardown=on"],
            &["-S"],
            &[
                "-netdev",
                r#"{"type":"tap","id":"n0","fd":"9"}"#,
                "-device",
                r#"{"driver":"virtio-net-pci","netdev":"n0","mac":"02:00:00:00:00:01","romfile":"","addr":"1e"}"#,
            ],
            &["-netdev", "tap,id=n0,fd=9", "-device", "virtio-net-pci,netdev=n0,romfile="],
            &["-device", "virtio-blk-pci,drive=d0,romfile="],
        ] {
            assert!(with(more).is_ok(), "{more:?}: {:?}", with(more));
        }
        assert_eq!(changed("-smp", "cpus=4,sockets=1,cores=4,maxcpus=4").unwrap().vcpus, 4);
        assert_eq!(changed("-smp", "1,maxcpus=2").unwrap().vcpus, 1);
        assert!(changed("-machine", "pc-q35-10.0,kernel-irqchip=split").is_ok());
    }

    #[test]
    fn options_that_may_change_what_boots_are_refused_by_name() {
        for option in [
            "-pflash",
            "-acpitable",
            "-smbios",
            "-option-rom",
            "-dtb",
            "-shim",
            "-global",
            "-set",
            "-readconfig",
            "-incoming",
            "-loadvm",
            "-hda",
            "-cdrom",
            "-fda",
            "-boot",
            "-L",
            "-plugin",
            "-semihosting",
            "-gdb",
            "-s",
            "-tpmdev",
            "-nographic",
            "-runas",
            "-uuid",
            "-ker",
            "-",
            "-enable-kvm",
            "-snapshot",
        ] {
            let dashed = format!("-{option}");
            for spelled in [option, &dashed] {
                assert_eq!(with(&[spelled, "x"]), Err(QemuError::Option { option: option.to_owned() }), "{spelled}");
            }
        }
        assert_eq!(with(&["disk.img"]), Err(QemuError::Positional { found: "disk.img".to_owned() }));
        assert_eq!(with(&["-device"]), Err(QemuError::MissingValue { option: "-device".to_owned() }));
    }

    #[test]
    fn values_that_may_change_what_boots_are_refused_by_name() {
        for (option, given, found) in [
            ("-device", "loader,file=evil,addr=0x100000", "loader"),
            ("-device", r#"{"driver":"loader","file":"evil"}"#, "loader"),
            ("-device", "virtio-blk-pci,driver=loader", "virtio-blk-pci,driver=loader"),
            ("-device", "virtio-net-pci,netdev=n0", "virtio-net-pci"),
            ("-device", r#"{"driver":"virtio-net-pci","netdev":"n0"}"#, "virtio-net-pci"),
            ("-device", r#"{"driver":"virtio-net-pci","netdev":"n0","romfile":"evil"}"#, "romfile=evil"),
            ("-device", "virtio-net-pci,netdev=n0,romfile=,romfile=evil", "romfile=evil"),
            ("-device", r#"{"driver":"virtio-net-pci","netdev":"n0","romfile":"","rombar":1}"#, "rombar=1"),
            ("-device", "e1000,netdev=n0,romfile=", "e1000"),
            ("-netdev", "user,id=n0", "user"),
            ("-netdev", r#"{"type":"user","id":"n0","tftp":"/evil"}"#, "user"),
            ("-netdev", r#"{"type":"tap","id":"n0","script":"/evil"}"#, "script=/evil"),
            ("-netdev", r#"{"type":"tap","id":"n0","fd":"/evil"}"#, "fd=/evil"),
            ("-netdev", "tap,id=n0,fd=9,downscript=/evil", "downscript=/evil"),
            ("-device", "virtio-blk-pci,drive=d0,bootindex=0", "bootindex=0"),
            ("-device", r#"{"driver":"virtio-blk-pci","romfile":"evil"}"#, "romfile=evil"),
            ("-device", "{broken", "{broken"),
            ("-object", "memory-backend-file,id=ram,mem-path=evil", "memory-backend-file"),
            ("-object", "sev-snp-guest,id=tee", "sev-snp-guest"),
            ("-drive", "if=pflash,file=evil", "if=pflash,file=evil"),
            ("-drive", "file=evil", "file=evil"),
            ("-drive", "if=none,if=pflash,file=evil", "if=none,if=pflash,file=evil"),
            ("-nic", "user", "user"),
            ("-serial", "stdio", "stdio"),
            ("-run-with", "chroot=/evil", "chroot=/evil"),
            ("-accel", "xen", "xen"),
        ] {
            assert_eq!(with(&[option, given]), value(option, found), "{option} {given}");
        }
        for (option, given, found) in [
            ("-machine", "q35,firmware=evil", "firmware=evil"),
            ("-machine", "q35,pflash0=evil", "pflash0=evil"),
            ("-machine", "q35,kernel=evil", "kernel=evil"),
            ("-machine", "q35,accel=xen", "accel=xen"),
            ("-machine", "microvm", "type=microvm"),
            ("-machine", "q35,confidential-guest-support=tee", "confidential-guest-support=tee"),
            ("-smp", "0", "0"),
            ("-smp", "513", "513"),
            ("-smp", "2,maxcpus=4", "2,maxcpus=4"),
            ("-smp", "2,maxcpus=3", "2,maxcpus=3"),
            ("-smp", "1,maxcpus=3", "1,maxcpus=3"),
            ("-smp", "two", "cpus=two"),
            ("-smp", "2,cpus=4", "cpus=4"),
            ("-smp", "sockets=2", "sockets=2"),
            ("-machine", r#"{"type":"q35"}"#, r#"type={"type":"q35"}"#),
            ("-fw_cfg", "name=opt/org.belljar/host-data,string=01,string=02", "string=02"),
            ("-m", "512M,slots=2,maxmem=4G", "512M,slots=2,maxmem=4G"),
            ("-kernel", "/dev/fdset/1", "/dev/fdset/1"),
            ("-initrd", "/proc/self/fd/3", "/proc/self/fd/3"),
            ("-bios", "", ""),
            ("-kernel", "/guest/../proc/self/fd/3", "/guest/../proc/self/fd/3"),
            ("-fw_cfg", "name=opt/ovmf/X,string=1", "name=opt/ovmf/X,string=1"),
            ("-fw_cfg", "name=opt/org.belljar/host-data,file=evil", "file=evil"),
            ("-fw_cfg", "name=opt/org.belljar/host-data,string=01", "01"),
        ] {
            assert_eq!(changed(option, given), value(option, found), "{option} {given}");
        }
    }

    #[test]
    fn what_is_measured_stands_exactly_once() {
        for (option, given) in
            [("-kernel", "k"), ("-initrd", "i"), ("-bios", "b"), ("-append", ""), ("-smp", "1"), ("-machine", "q35")]
        {
            assert_eq!(with(&[option, given]), Err(QemuError::Twice { option: option.to_owned() }), "{option}");
        }
        assert_eq!(with(&["-M", "q35"]), Err(QemuError::Twice { option: "-M".to_owned() }));
        assert_eq!(with(&["--kernel", "k"]), Err(QemuError::Twice { option: "-kernel".to_owned() }));
        let again =
            "name=opt/org.belljar/host-data,string=0101010101010101010101010101010101010101010101010101010101010101";
        assert_eq!(with(&["-fw_cfg", again]), Err(QemuError::Twice { option: "-fw_cfg".to_owned() }));
        for option in ["-bios", "-kernel", "-initrd"] {
            assert!(matches!(without(option), Err(QemuError::Missing { option: found }) if found == option));
        }
        use std::os::unix::ffi::OsStrExt;
        let bytes = OsStr::from_bytes(b"\xff");
        assert_eq!(CommandLine::parse(&[bytes]), Err(QemuError::NotText { found: bytes.to_owned() }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            CommandLine::fuzz(&data);
        }

        #[test]
        fn no_value_of_a_known_option_makes_it_panic(index in 0..OPTIONS.len(), value in "[-a-z{}\":,=0-9/]{0,40}") {
            let _ = with(&[OPTIONS[index].0, &value]);
        }

        /// Whatever is added, what is measured stays what it was, or the line is refused.
        #[test]
        fn nothing_that_is_added_changes_what_is_measured(more in proptest::collection::vec("-?-?[a-z_]{1,8}[=,a-z0-9]{0,8}", 0..4)) {
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            if let Ok(read) = with(&more) {
                prop_assert_eq!(read, with(&[]).unwrap());
            }
        }
    }
}
