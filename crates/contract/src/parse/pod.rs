//! The parts of a contract that containers share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use toml::Value;

use super::keys::{At, Keys};
use crate::check::malformed;
use crate::error::ContractError;
use crate::model::{
    DEFAULT_FILE_MODE, DEFAULT_SCRATCH, Dns, HostFile, HostType, MeasuredFile, Network, Operator, PodSettings,
    Resolver, Restart, Volume, VolumeMount,
};

pub(super) fn settings(mut keys: Keys) -> Result<PodSettings, ContractError> {
    let settings = PodSettings {
        network: keys.take("network").map(network).transpose()?.unwrap_or_default(),
        hostname_from_host: keys.flag("hostname_from_host")?,
        dns: keys.take("dns").map(dns).transpose()?.unwrap_or_default(),
        host_aliases: keys.take("host_aliases").map(host_aliases).transpose()?.unwrap_or_default(),
        ports: keys.take("ports").map(|at| at.list(port)).transpose()?.unwrap_or_default(),
        sysctls: keys.take("sysctls").map(|at| at.keys()?.map(|_, at| at.string())).transpose()?.unwrap_or_default(),
    };
    keys.end()?;
    Ok(settings)
}

fn network(at: At) -> Result<Network, ContractError> {
    let key = at.path.clone();
    match at.string()?.as_str() {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => malformed(&key, "\"none\" or \"host\"", other),
    }
}

fn dns(at: At) -> Result<Dns, ContractError> {
    let key = at.path.clone();
    if matches!(at.value, Value::Table(_)) {
        let mut keys = at.keys()?;
        let resolver = Resolver {
            nameservers: keys.need("nameservers")?.list(address)?,
            searches: keys.strings("searches")?,
            options: keys.strings("options")?,
        };
        keys.end()?;
        return Ok(Dns::Fixed(resolver));
    }
    match at.string()?.as_str() {
        "none" => Ok(Dns::None),
        "host" => Ok(Dns::Host),
        other => malformed(&key, "\"none\", \"host\", or a table with nameservers, searches and options", other),
    }
}

fn address(at: At) -> Result<IpAddr, ContractError> {
    let key = at.path.clone();
    let text = at.string()?;
    text.parse().or_else(|_| malformed(&key, "an IP address", &text))
}

/// Addresses stand in their shortest form, so that none stands twice.
fn host_aliases(at: At) -> Result<BTreeMap<IpAddr, Vec<String>>, ContractError> {
    let path = at.path.clone();
    let lines = at.keys()?.map(|_, at| at.list(At::string))?;
    let alias = |(text, names): (String, Vec<String>)| match text.parse::<IpAddr>() {
        Ok(address) if address.to_string() == text => Ok((address, names)),
        _ => malformed(&path, "IP addresses in their shortest form", &text),
    };
    lines.into_iter().map(alias).collect()
}

fn port(at: At) -> Result<u16, ContractError> {
    let key = at.path.clone();
    let found = at.integer()?;
    let bounds = ContractError::OutOfBounds { key, found: found.into(), minimum: 1, maximum: u16::MAX.into() };
    u16::try_from(found).map_err(|_| bounds)
}

pub(super) fn operator(mut keys: Keys) -> Result<Operator, ContractError> {
    let operator = Operator {
        spki_sha256: keys.need("spki_sha256")?.string()?,
        exec: keys.take("exec").map(At::permission).transpose()?.unwrap_or_default(),
        logs: keys.take("logs").map(At::permission).transpose()?.unwrap_or_default(),
    };
    keys.end()?;
    Ok(operator)
}

pub(super) fn volume(mut keys: Keys) -> Result<Volume, ContractError> {
    let kind = keys.need("kind")?;
    let key = kind.path.clone();
    let volume = match kind.string()?.as_str() {
        "scratch" => Volume::Scratch {
            size_bytes: keys.take("size_bytes").map(At::unsigned).transpose()?.unwrap_or(DEFAULT_SCRATCH),
        },
        "measured" => Volume::Measured { files: files(&mut keys, measured_file)? },
        "host" => Volume::Host { files: files(&mut keys, host_file)?, others: keys.flag("others")? },
        other => return malformed(&key, "\"scratch\", \"measured\" or \"host\"", other),
    };
    keys.end()?;
    Ok(volume)
}

fn files<T>(
    keys: &mut Keys,
    each: impl Fn(Keys) -> Result<T, ContractError>,
) -> Result<BTreeMap<String, T>, ContractError> {
    let files = keys.take("files").map(|at| at.keys()?.map(|_, at| each(at.keys()?)));
    Ok(files.transpose()?.unwrap_or_default())
}

fn measured_file(mut keys: Keys) -> Result<MeasuredFile, ContractError> {
    let file = MeasuredFile { sha256: keys.need("sha256")?.string()?, mode: mode(&mut keys)? };
    keys.end()?;
    Ok(file)
}

fn host_file(mut keys: Keys) -> Result<HostFile, ContractError> {
    let file =
        HostFile { kind: host_type(keys.need("type")?)?, mode: mode(&mut keys)?, optional: keys.flag("optional")? };
    keys.end()?;
    Ok(file)
}

fn mode(keys: &mut Keys) -> Result<u32, ContractError> {
    Ok(keys.take("mode").map(At::small).transpose()?.unwrap_or(DEFAULT_FILE_MODE))
}

pub(super) fn host_type(at: At) -> Result<HostType, ContractError> {
    let key = at.path.clone();
    let text = at.string()?;
    let expected = "ip, ip-list, port, endpoint, protocol, dns-name, dns-label, uuid, integer, token, certificates, any, \
                    or sha256: and 64 lowercase hex digits";
    HostType::from_name(&text).map_or_else(|| malformed(&key, expected, &text), Ok)
}

pub(super) fn restart(at: At) -> Result<Restart, ContractError> {
    let key = at.path.clone();
    match at.string()?.as_str() {
        "never" => Ok(Restart::Never),
        "on-failure" => Ok(Restart::OnFailure),
        "always" => Ok(Restart::Always),
        other => malformed(&key, "\"never\", \"on-failure\" or \"always\"", other),
    }
}

pub(super) fn mount(mut keys: Keys) -> Result<VolumeMount, ContractError> {
    let mount = VolumeMount {
        volume: keys.need("volume")?.string()?,
        path: keys.need("path")?.string()?,
        sub_path: keys.take("sub_path").map(At::string).transpose()?,
        read_only: keys.flag("read_only")?,
    };
    keys.end()?;
    Ok(mount)
}
