//! TOML to contract. Every table is emptied key by key; what is left over is an unknown key and refused by name.

mod keys;
mod pod;

use toml::Table;

use self::keys::{At, Keys};
use crate::error::{ContractError, one_line};
use crate::initdata::MAX_INITDATA;
use crate::model::{
    BrokerPin, Container, Contract, DEFAULT_PIDS, DEFAULT_SCRATCH, DEFAULT_SECRET_MODE, DEFAULT_TMPFS_MODE, Layer,
    Resources, Secret, Tmpfs, User, VERSION,
};

impl Contract {
    /// Reads a contract and checks all bounds and rules.
    ///
    /// # Errors
    /// Any [`ContractError`]; an unknown key is [`ContractError::UnknownKey`] with its full path.
    pub fn parse(toml: &str) -> Result<Self, ContractError> {
        if toml.len() > MAX_INITDATA {
            return Err(ContractError::TooLarge { found: toml.len(), limit: MAX_INITDATA });
        }
        let table =
            toml.parse::<Table>().map_err(|error| ContractError::Toml { message: one_line(error.message()) })?;
        let contract = contract(Keys { path: String::new(), table })?;
        contract.check()?;
        Ok(contract)
    }
}

/// Parses any bytes; for fuzzing. A contract that parses must survive its canonical form.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(contract) = Contract::parse(text) {
        let canonical = contract.to_toml();
        if canonical.len() <= MAX_INITDATA {
            assert_eq!(Contract::parse(&canonical).as_ref(), Ok(&contract), "canonical form changes the contract");
        }
    }
}

fn contract(mut keys: Keys) -> Result<Contract, ContractError> {
    // The version comes first, so that a newer contract is called newer and not full of unknown keys.
    let version = keys.need("version")?.integer()?;
    if version != i64::from(VERSION) {
        return Err(ContractError::Version { found: version, supported: VERSION });
    }
    let broker = keys.take("broker").map(|at| broker(at.keys()?)).transpose()?;
    let pod = keys.take("pod").map(|at| pod::settings(at.keys()?)).transpose()?.unwrap_or_default();
    let operator = keys.take("operator").map(|at| pod::operator(at.keys()?)).transpose()?;
    let volumes = keys.take("volumes").map(|at| at.keys()?.map(|_, at| pod::volume(at.keys()?))).transpose()?;
    let containers = keys.need("containers")?.keys()?;
    let debug = keys.flag("debug")?;
    keys.end()?;
    let containers = containers.map(|name, at| container(name, at.keys()?))?;
    Ok(Contract { version: VERSION, broker, pod, operator, volumes: volumes.unwrap_or_default(), containers, debug })
}

fn broker(mut keys: Keys) -> Result<BrokerPin, ContractError> {
    let spki_sha256 = keys.need("spki_sha256")?.string()?;
    keys.end()?;
    Ok(BrokerPin { spki_sha256 })
}

fn container(name: &str, mut keys: Keys) -> Result<Container, ContractError> {
    let container = Container {
        image: keys.need("image")?.string()?,
        image_digest: keys.need("image_digest")?.string()?,
        layers: keys.need("layers")?.list(|at| layer(at.keys()?))?,
        args: keys.need("args")?.list(At::string)?,
        env: keys.take("env").map(|at| at.keys()?.map(|_, at| at.string())).transpose()?.unwrap_or_default(),
        cwd: keys.take("cwd").map(At::string).transpose()?.unwrap_or_else(|| "/".to_owned()),
        user: keys.take("user").map(|at| user(at.keys()?)).transpose()?.unwrap_or_default(),
        capabilities: keys.strings("capabilities")?,
        no_new_privileges: keys.take("no_new_privileges").map(At::boolean).transpose()?.unwrap_or(true),
        read_only_root: keys.flag("read_only_root")?,
        tmpfs: keys.take("tmpfs").map(|at| at.list(|at| tmpfs(at.keys()?))).transpose()?.unwrap_or_default(),
        scratch_bytes: keys.take("scratch_bytes").map(At::unsigned).transpose()?.unwrap_or(DEFAULT_SCRATCH),
        resources: keys.take("resources").map(|at| resources(at.keys()?)).transpose()?.unwrap_or_default(),
        secrets: keys.take("secrets").map(|at| at.list(|at| secret(at.keys()?))).transpose()?.unwrap_or_default(),
        logs: keys.take("logs").map(At::permission).transpose()?.unwrap_or_default(),
        stdin: keys.take("stdin").map(At::permission).transpose()?.unwrap_or_default(),
        exec: keys.take("exec").map(|at| at.list(|at| at.list(At::string))).transpose()?.unwrap_or_default(),
        secret_api: keys.flag("secret_api")?,
        hostname: keys.take("hostname").map(At::string).transpose()?.unwrap_or_else(|| name.to_owned()),
        terminal: keys.flag("terminal")?,
        init: keys.take("init").map(At::small).transpose()?.unwrap_or(0),
        restart: keys.take("restart").map(pod::restart).transpose()?.unwrap_or_default(),
        env_from_host: keys
            .take("env_from_host")
            .map(|at| at.keys()?.map(|_, at| pod::host_type(at)))
            .transpose()?
            .unwrap_or_default(),
        service_links: keys.flag("service_links")?,
        mounts: keys.take("mounts").map(|at| at.list(|at| pod::mount(at.keys()?))).transpose()?.unwrap_or_default(),
    };
    keys.end()?;
    Ok(container)
}

fn layer(mut keys: Keys) -> Result<Layer, ContractError> {
    let layer = Layer {
        verity_root: keys.need("verity_root")?.string()?,
        salt: keys.need("salt")?.string()?,
        data_blocks: keys.need("data_blocks")?.unsigned()?,
    };
    keys.end()?;
    Ok(layer)
}

fn user(mut keys: Keys) -> Result<User, ContractError> {
    let name = keys.take("name").map(At::string).transpose()?;
    let user = User {
        uid: keys.take("uid").map(At::small).transpose()?.unwrap_or(0),
        gid: keys.take("gid").map(At::small).transpose()?.unwrap_or(0),
        additional_gids: keys.take("additional_gids").map(|at| at.list(At::small)).transpose()?.unwrap_or_default(),
        name,
    };
    keys.end()?;
    Ok(user)
}

fn tmpfs(mut keys: Keys) -> Result<Tmpfs, ContractError> {
    let tmpfs = Tmpfs {
        path: keys.need("path")?.string()?,
        size_bytes: keys.take("size_bytes").map(At::unsigned).transpose()?.unwrap_or(DEFAULT_SCRATCH),
        mode: keys.take("mode").map(At::small).transpose()?.unwrap_or(DEFAULT_TMPFS_MODE),
    };
    keys.end()?;
    Ok(tmpfs)
}

fn resources(mut keys: Keys) -> Result<Resources, ContractError> {
    let resources = Resources {
        memory_bytes: keys.take("memory_bytes").map(At::unsigned).transpose()?,
        cpu_millis: keys.take("cpu_millis").map(At::unsigned).transpose()?,
        pids: keys.take("pids").map(At::unsigned).transpose()?.unwrap_or(DEFAULT_PIDS),
    };
    keys.end()?;
    Ok(resources)
}

fn secret(mut keys: Keys) -> Result<Secret, ContractError> {
    let secret = Secret {
        name: keys.need("name")?.string()?,
        resource: keys.need("resource")?.string()?,
        path: keys.need("path")?.string()?,
        mode: keys.take("mode").map(At::small).transpose()?.unwrap_or(DEFAULT_SECRET_MODE),
    };
    keys.end()?;
    Ok(secret)
}
