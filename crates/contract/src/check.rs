//! Bounds of every field and the rules between fields.

mod env;
mod mounts;
mod pod;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{ContractError, cut};
use crate::host_value::is_dns_label;
use crate::model::{
    CAPABILITIES, Container, Contract, Layer, MAX_ARGS, MAX_BYTES, MAX_CONTAINERS, MAX_DATA_BLOCKS, MAX_ID, MAX_LAYERS,
    MAX_LIST, MAX_PATH, MAX_TEXT, MAX_VOLUMES, Restart, User, VERSION,
};

pub use env::not_delegable;

/// Places that the kernel fills; nothing else may be put there.
const KERNEL_PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];

impl Contract {
    /// Checks all bounds and rules; [`Contract::parse`] has done so already.
    ///
    /// # Errors
    /// The first [`ContractError`] in field order.
    pub fn check(&self) -> Result<(), ContractError> {
        if self.version != VERSION {
            return Err(ContractError::Version { found: i64::from(self.version), supported: VERSION });
        }
        if let Some(broker) = &self.broker {
            hex("broker.spki_sha256", &broker.spki_sha256, 64, 64, "64 lowercase hex digits")?;
        }
        self.pod.check()?;
        if let Some(operator) = &self.operator {
            hex("operator.spki_sha256", &operator.spki_sha256, 64, 64, "64 lowercase hex digits")?;
        }
        count("volumes", self.volumes.len(), 0, MAX_VOLUMES)?;
        for (name, volume) in &self.volumes {
            let key = format!("volumes.{name}");
            label(&key, name)?;
            volume.check(&key)?;
        }
        count("containers", self.containers.len(), 1, MAX_CONTAINERS)?;
        for (name, container) in &self.containers {
            let key = format!("containers.{name}");
            label(&key, name)?;
            container.check(&key)?;
            self.check_volumes_of(&key, container)?;
            if self.broker.is_none() {
                if !container.secrets.is_empty() {
                    return Err(ContractError::NoBroker { key: format!("{key}.secrets") });
                }
                if container.secret_api {
                    return Err(ContractError::NoBroker { key: format!("{key}.secret_api") });
                }
            }
        }
        self.check_order()
    }

    /// Init containers have the places 1, 2, … and each place is taken once; something comes after them.
    fn check_order(&self) -> Result<(), ContractError> {
        let mut places: BTreeMap<u32, &str> = BTreeMap::new();
        let init = self.containers.iter().filter(|(_, container)| container.init != 0);
        let last = u32::try_from(init.clone().count()).unwrap_or(u32::MAX);
        for (name, container) in init {
            let key = format!("containers.{name}.init");
            range(&key, container.init.into(), 1, last.into())?;
            if let Some(other) = places.insert(container.init, name) {
                return Err(conflict(key, format!("containers.{other}.init"), "both have the same place"));
            }
        }
        if places.len() == self.containers.len() {
            let expected = "at least one container that is no init container";
            return malformed("containers", expected, "init containers only");
        }
        Ok(())
    }
}

impl Container {
    /// Checks one container; `key` is where it stands, for messages.
    pub(crate) fn check(&self, key: &str) -> Result<(), ContractError> {
        let at = |field: &str| format!("{key}.{field}");
        check_text(&at("image"), &self.image, 512)?;
        if self.image.is_empty() || self.image.chars().any(char::is_control) {
            return malformed(&at("image"), "an image reference", &self.image);
        }
        image_digest(&at("image_digest"), &self.image_digest)?;
        count(&at("layers"), self.layers.len(), 1, MAX_LAYERS)?;
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(&format!("{key}.layers[{index}]"))?;
        }
        command(&at("args"), &self.args)?;
        self.check_env(key)?;
        path(&at("cwd"), &self.cwd)?;
        self.user.check(&at("user"))?;
        count(&at("capabilities"), self.capabilities.len(), 0, CAPABILITIES.len())?;
        let mut seen = BTreeSet::new();
        for (index, name) in self.capabilities.iter().enumerate() {
            let at = format!("{key}.capabilities[{index}]");
            if !CAPABILITIES.contains(&name.as_str()) {
                return malformed(&at, "a Linux capability such as CAP_CHOWN", name);
            }
            if !seen.insert(name) {
                return Err(conflict(at, format!("{key}.capabilities"), "it is listed twice"));
            }
        }
        range(&at("scratch_bytes"), self.scratch_bytes, 64 * 1024, MAX_BYTES)?;
        if let Some(bytes) = self.resources.memory_bytes {
            range(&at("resources.memory_bytes"), bytes, 1 << 20, MAX_BYTES)?;
        }
        if let Some(millis) = self.resources.cpu_millis {
            range(&at("resources.cpu_millis"), millis, 10, 1_024_000)?;
        }
        range(&at("resources.pids"), self.resources.pids, 1, 4_194_304)?;
        self.check_mounts(key)?;
        count(&at("exec"), self.exec.len(), 0, MAX_LIST)?;
        for (index, args) in self.exec.iter().enumerate() {
            command(&format!("{key}.exec[{index}]"), args)?;
        }
        if self.init != 0 && self.restart == Restart::Always {
            let why = "an init container must end with 0, so it cannot be started again whenever it ends";
            return Err(conflict(at("restart"), at("init"), why));
        }
        label(&at("hostname"), &self.hostname)
    }
}

impl Layer {
    fn check(&self, key: &str) -> Result<(), ContractError> {
        hex(&format!("{key}.verity_root"), &self.verity_root, 64, 64, "64 lowercase hex digits")?;
        hex(&format!("{key}.salt"), &self.salt, 0, 512, "an even number of lowercase hex digits, at most 512")?;
        range(&format!("{key}.data_blocks"), self.data_blocks, 1, MAX_DATA_BLOCKS)
    }
}

impl User {
    fn check(&self, key: &str) -> Result<(), ContractError> {
        range(&format!("{key}.uid"), u64::from(self.uid), 0, u64::from(MAX_ID))?;
        range(&format!("{key}.gid"), u64::from(self.gid), 0, u64::from(MAX_ID))?;
        count(&format!("{key}.additional_gids"), self.additional_gids.len(), 0, MAX_LIST)?;
        for (index, gid) in self.additional_gids.iter().enumerate() {
            range(&format!("{key}.additional_gids[{index}]"), u64::from(*gid), 0, u64::from(MAX_ID))?;
        }
        if let Some(name) = &self.name {
            let at = format!("{key}.name");
            crate::user::check_name(&at, name)?;
            if self.uid != 0 || self.gid != 0 {
                return Err(conflict(at, format!("{key}.uid"), "a user is given by name or by number, not by both"));
            }
        }
        Ok(())
    }
}

/// Whether `path` is `above` or lies below it. Both are normalised.
fn within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || above == "/")
}

/// A path where the contract may mount something of its own.
fn own_place(key: &str, text: &str) -> Result<(), ContractError> {
    path(key, text)?;
    if text == "/" || KERNEL_PLACES.iter().any(|place| within(text, place)) {
        return malformed(key, "a path below / that is not /proc, /sys or /dev or below these", text);
    }
    Ok(())
}

fn path(key: &str, text: &str) -> Result<(), ContractError> {
    let normal = text == "/"
        || (text.starts_with('/')
            && text
                .split('/')
                .skip(1)
                .all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255));
    if !normal || text.len() > MAX_PATH || text.chars().any(char::is_control) {
        return malformed(key, "an absolute path without '.', '..', '//', trailing '/' or control characters", text);
    }
    Ok(())
}

/// A path below the root of a volume. `..` at the start of a name is left to the guest's own bookkeeping, as in Kubernetes.
fn relative(key: &str, text: &str) -> Result<(), ContractError> {
    let normal =
        text.split('/').all(|part| !part.is_empty() && part != "." && !part.starts_with("..") && part.len() <= 255);
    if !normal || text.len() > MAX_PATH || text.chars().any(char::is_control) {
        let expected =
            "a relative path without '.', names that begin with '..', '//', '/' at an end or control characters";
        return malformed(key, expected, text);
    }
    Ok(())
}

fn label(key: &str, text: &str) -> Result<(), ContractError> {
    if is_dns_label(text) {
        return Ok(());
    }
    malformed(key, "a DNS label: 1 to 63 of a-z, 0-9 and '-', not at either end", text)
}

fn segment(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn image_digest(key: &str, text: &str) -> Result<(), ContractError> {
    let expected = "sha256: and 64, or sha512: and 128 lowercase hex digits";
    match text.split_once(':') {
        Some(("sha256", digits)) if digits.len() == 64 && is_hex(digits) => Ok(()),
        Some(("sha512", digits)) if digits.len() == 128 && is_hex(digits) => Ok(()),
        _ => malformed(key, expected, text),
    }
}

fn hex(key: &str, text: &str, shortest: usize, longest: usize, expected: &'static str) -> Result<(), ContractError> {
    if (shortest..=longest).contains(&text.len()) && text.len().is_multiple_of(2) && is_hex(text) {
        Ok(())
    } else {
        malformed(key, expected, text)
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn command(key: &str, args: &[String]) -> Result<(), ContractError> {
    count(key, args.len(), 1, MAX_ARGS)?;
    if args.first().is_some_and(String::is_empty) {
        return malformed(&format!("{key}[0]"), "a program to run", "");
    }
    args.iter().enumerate().try_for_each(|(index, arg)| check_text(&format!("{key}[{index}]"), arg, MAX_TEXT))
}

/// Bounded text that the kernel can take as a C string.
fn check_text(key: &str, value: &str, longest: usize) -> Result<(), ContractError> {
    count(key, value.len(), 0, longest)?;
    if value.contains('\0') {
        return malformed(key, "text without NUL", value);
    }
    Ok(())
}

fn count(key: &str, found: usize, minimum: usize, maximum: usize) -> Result<(), ContractError> {
    let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    range(key, wide(found), wide(minimum), wide(maximum))
}

fn range(key: &str, found: u64, minimum: u64, maximum: u64) -> Result<(), ContractError> {
    if (minimum..=maximum).contains(&found) {
        return Ok(());
    }
    let (found, minimum, maximum) = (i128::from(found), i128::from(minimum), i128::from(maximum));
    Err(ContractError::OutOfBounds { key: key.to_owned(), found, minimum, maximum })
}

pub(crate) fn malformed<T>(key: &str, expected: &'static str, found: &str) -> Result<T, ContractError> {
    Err(ContractError::Malformed { key: cut(key), expected, found: cut(found) })
}

fn conflict(key: String, other: String, why: &'static str) -> ContractError {
    ContractError::Conflict { key, other, why }
}
