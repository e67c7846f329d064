//! Events in words: what was measured, and whether the event's data is what was hashed.

use serde::Serialize;

use super::parse::{Event, Log};
use crate::bytes::Bytes;
use crate::tpm::Hash;

/// Longest text of an event that is shown, in characters.
const MAX_TEXT: usize = 4096;

/// One event in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The register.
    pub register: u32,
    /// Name of the event's type.
    pub event: String,
    /// What was measured.
    pub what: String,
    /// What was extended into the bank, lowercase hex.
    pub digest: String,
    /// Which part of the event's data hashes to that; `None` when it was something that the log does not hold.
    pub hashed: Option<&'static str>,
}

/// What of a boot a verifier asks for first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BootChain {
    /// Programs that the firmware or a boot loader started, in order: where from, and the digest (PE/COFF
    /// Authenticode) in lowercase hex. The last one is the kernel when the kernel is started as an EFI program.
    pub programs: Vec<Measured>,
    /// The kernel's digest, where a boot loader measured the file.
    pub kernel: Option<Measured>,
    /// The initrd's digest, where it was measured.
    pub initrd: Option<Measured>,
    /// The kernel command line, where its text is in the log and hashes to what was extended; else what is known of it.
    pub command_line: Option<Measured>,
}

/// Something that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// What, as the log calls it.
    pub what: String,
    /// Digest in the bank, lowercase hex.
    pub digest: String,
    /// Whether the log holds what was hashed, so that `what` is as true as the digest.
    pub proved: bool,
}

/// Explains an event, with its digest in that bank.
pub fn explain(event: &Event, bank: Hash) -> Explained {
    let digest = event.digest(bank).unwrap_or_default();
    let (what, parts) = describe(event);
    let hashes = |part: &[u8]| !digest.is_empty() && bank.digest(&[part]) == digest;
    let hashed = parts.into_iter().find(|(_, part)| hashes(part)).map(|(name, _)| name);
    Explained {
        register: event.register,
        event: type_name(event.kind).map_or_else(|| format!("{:#010x}", event.kind), str::to_owned),
        what: what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect(),
        digest: hex::encode(digest),
        hashed,
    }
}

/// Finds programs, kernel, initrd and command line.
pub fn boot_chain(log: &Log, bank: Hash) -> BootChain {
    let mut chain = BootChain::default();
    for event in &log.events {
        let explained = explain(event, bank);
        let measured = |what: &str| Measured {
            what: what.to_owned(),
            digest: explained.digest.clone(),
            proved: explained.hashed.is_some(),
        };
        let what = explained.what.as_str();
        match event.kind {
            BOOT_APPLICATION => chain.programs.push(measured(what)),
            EVENT_TAG if tag(&event.data).is_some_and(|(id, _)| id == INITRD_TAG) => {
                chain.initrd = Some(measured(what));
            }
            EVENT_TAG if tag(&event.data).is_some_and(|(id, _)| id == LOAD_OPTIONS_TAG) => {
                chain.command_line = Some(measured(what));
            }
            IPL => {
                let text = text_of(&event.data);
                let file = text.rsplit('/').next().unwrap_or_default();
                if let Some(line) = text.strip_prefix("kernel_cmdline: ") {
                    chain.command_line = Some(measured(line));
                } else if text.starts_with('/') && (file.starts_with("vmlinuz") || file.starts_with("bzImage")) {
                    chain.kernel = Some(measured(&text));
                } else if text.starts_with('/') && (file.starts_with("initrd") || file.starts_with("initramfs")) {
                    chain.initrd = Some(measured(&text));
                }
            }
            _ => {}
        }
    }
    chain
}

const EVENT_TAG: u32 = 0x06;
const IPL: u32 = 0x0D;
const BOOT_APPLICATION: u32 = 0x8000_0003;
/// Tags of Linux' EFI stub.
const INITRD_TAG: u32 = 0x8F3B_22EC;
const LOAD_OPTIONS_TAG: u32 = 0x8F3B_22ED;
/// `AAEL` of Confidential Containers' attestation agent.
const AAEL_TAG: u32 = 0x4141_454C;

fn type_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x00 => "EV_PREBOOT_CERT",
        0x01 => "EV_POST_CODE",
        0x03 => "EV_NO_ACTION",
        0x04 => "EV_SEPARATOR",
        0x05 => "EV_ACTION",
        EVENT_TAG => "EV_EVENT_TAG",
        0x07 => "EV_S_CRTM_CONTENTS",
        0x08 => "EV_S_CRTM_VERSION",
        0x09 => "EV_CPU_MICROCODE",
        0x0A => "EV_PLATFORM_CONFIG_FLAGS",
        0x0B => "EV_TABLE_OF_DEVICES",
        0x0C => "EV_COMPACT_HASH",
        IPL => "EV_IPL",
        0x0E => "EV_IPL_PARTITION_DATA",
        0x0F => "EV_NONHOST_CODE",
        0x10 => "EV_NONHOST_CONFIG",
        0x11 => "EV_NONHOST_INFO",
        0x12 => "EV_OMIT_BOOT_DEVICE_EVENTS",
        0x13 => "EV_POST_CODE2",
        0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
        BOOT_APPLICATION => "EV_EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
        0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
        0x8000_0006 => "EV_EFI_GPT_EVENT",
        0x8000_0007 => "EV_EFI_ACTION",
        0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
        0x8000_000A => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000B => "EV_EFI_HANDOFF_TABLES2",
        0x8000_000C => "EV_EFI_VARIABLE_BOOT2",
        0x8000_0010 => "EV_EFI_HCRTM_EVENT",
        0x8000_00E0 => "EV_EFI_VARIABLE_AUTHORITY",
        0x8000_00E1 => "EV_EFI_SPDM_FIRMWARE_BLOB",
        0x8000_00E2 => "EV_EFI_SPDM_FIRMWARE_CONFIG",
        _ => return None,
    })
}

/// Parts of an event's data that may be what was hashed, by name.
type Parts<'a> = Vec<(&'static str, &'a [u8])>;

/// What an event is about, and what of its data may have been hashed.
fn describe(event: &Event) -> (String, Parts<'_>) {
    let data = event.data.as_slice();
    let whole: Parts<'_> = vec![("the event's data", data)];
    match event.kind {
        0x03 => ("nothing is extended".to_owned(), Vec::new()),
        0x04 => match data {
            [0, 0, 0, 0] | [0xFF, 0xFF, 0xFF, 0xFF] => ("end of the firmware's own measurements".to_owned(), whole),
            _ => ("end of the firmware's own measurements, after an error".to_owned(), whole),
        },
        0x01 | 0x05 | 0x0A | 0x13 | 0x8000_0007 => (text_of(data), whole),
        0x08 => (format!("version of the firmware: {}", wide_text(data)), whole),
        EVENT_TAG => tagged(data),
        IPL => ipl(data),
        0x8000_0001 | 0x8000_0002 | 0x8000_000C | 0x8000_00E0 => variable(data),
        BOOT_APPLICATION..=0x8000_0005 => (format!("program {}", image(data)), Vec::new()),
        0x8000_0006 => (gpt(data), whole),
        0x8000_0008 | 0x8000_000A => (blob(data), Vec::new()),
        0x8000_0009 | 0x8000_000B => (tables(data), Vec::new()),
        _ => (format!("{} bytes", data.len()), whole),
    }
}

/// Text up to the zero that ends it.
fn text_of(data: &[u8]) -> String {
    let text = data.strip_suffix(&[0]).unwrap_or(data);
    String::from_utf8_lossy(text).into_owned()
}

/// UTF-16 text, or UTF-8 where it is none: of UTF-16, most second bytes are zero, and of UTF-8 only the last byte is.
fn wide_text(data: &[u8]) -> String {
    let (units, rest) = data.as_chunks::<2>();
    let zeros = units.iter().filter(|[_, high]| *high == 0).count();
    if zeros.saturating_mul(2) < units.len() || units.len() < 2 {
        return text_of(data);
    }
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    match (rest, String::from_utf16(&units)) {
        ([], Ok(text)) if !text.is_empty() && text.chars().all(|c| !c.is_control()) => text,
        _ => text_of(data),
    }
}

/// UTF-16 up to the zero that ends it.
fn until_zero(data: &[u8]) -> &[u8] {
    let length = data.as_chunks::<2>().0.iter().take_while(|unit| **unit != [0, 0]).count();
    data.get(..length.saturating_mul(2)).unwrap_or(data)
}

/// TCG_PCClientTaggedEvent: tag, length, data; nothing behind it.
fn tag(data: &[u8]) -> Option<(u32, &[u8])> {
    let mut from = Bytes::new(data);
    let (id, length) = (from.u32_le()?, from.u32_le()?);
    let inner = from.slice(usize::try_from(length).ok()?)?;
    (from.len() == 0).then_some((id, inner))
}

fn tagged(data: &[u8]) -> (String, Parts<'_>) {
    let whole = ("the event's data", data);
    match tag(data) {
        Some((AAEL_TAG, inner)) => {
            let text = text_of(inner);
            let mut words = text.splitn(3, ' ');
            let what = match (words.next(), words.next(), words.next()) {
                (Some(domain), Some(operation), Some(content)) => format!("{operation} {content} (by {domain})"),
                _ => text.clone(),
            };
            (what, vec![whole])
        }
        Some((INITRD_TAG, inner)) => (format!("initrd ({})", text_of(inner)), Vec::new()),
        Some((LOAD_OPTIONS_TAG, inner)) => (format!("kernel command line ({})", text_of(inner)), Vec::new()),
        Some((id, inner)) => (format!("tag {id:#010x}: {}", text_of(inner)), vec![whole, ("the tagged data", inner)]),
        None => (format!("{} bytes", data.len()), vec![whole]),
    }
}

/// Boot loaders: GRUB (`grub_cmd: …`, `kernel_cmdline: …`, the name of a file), shim (the name of a variable),
/// systemd-stub (a command line in UTF-16).
fn ipl(data: &[u8]) -> (String, Parts<'_>) {
    let text = data.strip_suffix(&[0]).unwrap_or(data);
    let mut parts = vec![("the event's data", data), ("the text", text)];
    for prefix in ["grub_cmd: ", "kernel_cmdline: ", "module_cmdline: "] {
        if let Some(rest) = text.strip_prefix(prefix.as_bytes()) {
            parts.push(("the text behind its first word", rest));
        }
    }
    let what = if text.starts_with(b"/") || text.starts_with(b"(") {
        format!("file {}", text_of(data))
    } else {
        wide_text(data)
    };
    (what, parts)
}

/// UEFI_VARIABLE_DATA: vendor, length of the name, length of the data, name, data.
fn variable(data: &[u8]) -> (String, Parts<'_>) {
    let read = || {
        let mut from = Bytes::new(data);
        from.slice(16)?;
        let (name, content) = (from.array().map(u64::from_le_bytes)?, from.array().map(u64::from_le_bytes)?);
        let name = from.slice(usize::try_from(name).ok()?.checked_mul(2)?)?;
        Some((wide_text(name), from.slice(usize::try_from(content).ok()?)?))
    };
    match read() {
        Some((name, content)) => {
            let value = match (name.as_str(), content) {
                ("SecureBoot", [0]) => ": off".to_owned(),
                ("SecureBoot", [1]) => ": on".to_owned(),
                ("SecureBoot", []) => ": not set".to_owned(),
                (option, _) if option.starts_with("Boot") && option != "BootOrder" => {
                    content.get(6..).map(|option| format!(": {}", wide_text(until_zero(option)))).unwrap_or_default()
                }
                _ => format!(": {} bytes", content.len()),
            };
            (format!("variable {name}{value}"), vec![("the event's data", data), ("the variable's value", content)])
        }
        None => ("a variable that cannot be read".to_owned(), vec![("the event's data", data)]),
    }
}

/// UEFI_IMAGE_LOAD_EVENT: address, length, link time address, length of the device path, device path.
fn image(data: &[u8]) -> String {
    let read = || {
        let mut from = Bytes::new(data);
        from.slice(24)?;
        let length = from.array().map(u64::from_le_bytes)?;
        from.slice(usize::try_from(length).ok()?)
    };
    read().map_or_else(|| "from an unreadable place".to_owned(), device_path)
}

/// Text of a device path: file names and what else is short to say.
fn device_path(path: &[u8]) -> String {
    let mut from = Bytes::new(path);
    let mut words = Vec::new();
    while let (Some([kind, subtype]), Some(length)) = (from.array(), from.u16_le()) {
        let Some(data) = usize::from(length).checked_sub(4).and_then(|length| from.slice(length)) else { break };
        match (kind, subtype) {
            (0x7F, _) => break,
            (0x04, 0x04) => words.push(wide_text(data)),
            (0x04, 0x01) => words.push("hard drive".to_owned()),
            (0x04, 0x03) => words.push("a vendor's medium".to_owned()),
            (0x04, 0x06) => words.push("file in the firmware volume".to_owned()),
            (0x04, 0x07) => words.push("firmware volume".to_owned()),
            (0x02, _) => words.push("acpi".to_owned()),
            (0x01, 0x01) => words.push("pci".to_owned()),
            (0x03, 0x17) => words.push("nvme".to_owned()),
            (0x03, 0x02) => words.push("scsi".to_owned()),
            (kind, subtype) => words.push(format!("{kind:#04x}/{subtype:#04x}")),
        }
    }
    if words.is_empty() { "from memory".to_owned() } else { words.join(" > ") }
}

/// UEFI_GPT_DATA: the header (92 bytes), the number of partitions, partitions of 128 bytes.
fn gpt(data: &[u8]) -> String {
    let count = data.get(92..100).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    count.map_or_else(|| "partition table".to_owned(), |count| format!("partition table with {count} partitions"))
}

/// UEFI_PLATFORM_FIRMWARE_BLOB (address, length) or …_BLOB2 (a description before them).
fn blob(data: &[u8]) -> String {
    let described = || {
        let mut from = Bytes::new(data);
        let [length] = from.array()?;
        let text = from.slice(usize::from(length))?;
        (from.len() == 16).then(|| text_of(text))
    };
    described().map_or_else(|| "part of the firmware".to_owned(), |text| format!("part of the firmware: {text}"))
}

fn tables(data: &[u8]) -> String {
    let described = || {
        let mut from = Bytes::new(data);
        let [length] = from.array()?;
        from.slice(usize::from(length)).map(text_of)
    };
    match described() {
        Some(text) if text.chars().all(|c| !c.is_control()) && !text.is_empty() => format!("tables: {text}"),
        _ => "tables".to_owned(),
    }
}
