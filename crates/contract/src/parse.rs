//! TOML to contract. Every table is emptied key by key; what is left over is an unknown key and refused by name.

use toml::{Table, Value};

use crate::error::{ContractError, one_line};
use crate::initdata::MAX_INITDATA;
use crate::model::{
    BrokerPin, Container, Contract, DEFAULT_PIDS, DEFAULT_SCRATCH, DEFAULT_SECRET_MODE, DEFAULT_TMPFS_MODE, Layer,
    Permission, Resources, Secret, Tmpfs, User, VERSION,
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
    let mut containers = keys.need("containers")?.keys()?;
    let debug = keys.take("debug").map(At::boolean).transpose()?.unwrap_or(false);
    keys.end()?;
    let names: Vec<String> = containers.table.keys().cloned().collect();
    let containers = names
        .into_iter()
        .map(|name| {
            let at = containers.need(&name)?;
            Ok((name.clone(), container(&name, at.keys()?)?))
        })
        .collect::<Result<_, ContractError>>()?;
    Ok(Contract {
        version: VERSION,
        broker,
        pod: crate::model::PodSettings::default(),
        operator: None,
        volumes: std::collections::BTreeMap::new(),
        containers,
        debug,
    })
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
        env: keys.take("env").map(env).transpose()?.unwrap_or_default(),
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
        init: 0,
        restart: crate::model::Restart::Never,
        env_from_host: std::collections::BTreeMap::new(),
        service_links: false,
        mounts: Vec::new(),
    };
    keys.end()?;
    Ok(container)
}

fn env(at: At) -> Result<std::collections::BTreeMap<String, String>, ContractError> {
    let mut keys = at.keys()?;
    let names: Vec<String> = keys.table.keys().cloned().collect();
    names.into_iter().map(|name| Ok((name.clone(), keys.need(&name)?.string()?))).collect()
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

/// A table that is emptied key by key, and where it stands.
struct Keys {
    path: String,
    table: Table,
}

impl Keys {
    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &str) -> Option<At> {
        self.table.remove(key).map(|value| At { path: self.at(key), value })
    }

    fn need(&mut self, key: &str) -> Result<At, ContractError> {
        self.take(key).ok_or_else(|| ContractError::MissingKey { key: self.at(key) })
    }

    fn flag(&mut self, key: &str) -> Result<bool, ContractError> {
        Ok(self.take(key).map(At::boolean).transpose()?.unwrap_or(false))
    }

    fn strings(&mut self, key: &str) -> Result<Vec<String>, ContractError> {
        Ok(self.take(key).map(|at| at.list(At::string)).transpose()?.unwrap_or_default())
    }

    fn end(self) -> Result<(), ContractError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(ContractError::UnknownKey { key: crate::error::cut(&self.at(key)) }),
        }
    }
}

/// A value and where it stands.
struct At {
    path: String,
    value: Value,
}

impl At {
    fn wrong(path: String, expected: &'static str, value: &Value) -> ContractError {
        ContractError::WrongType { key: path, expected, found: value.type_str() }
    }

    fn keys(self) -> Result<Keys, ContractError> {
        match self.value {
            Value::Table(table) => Ok(Keys { path: self.path, table }),
            other => Err(Self::wrong(self.path, "table", &other)),
        }
    }

    fn list<T>(self, each: impl Fn(At) -> Result<T, ContractError>) -> Result<Vec<T>, ContractError> {
        match self.value {
            Value::Array(values) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| each(At { path: format!("{}[{index}]", self.path), value }))
                .collect(),
            other => Err(Self::wrong(self.path, "array", &other)),
        }
    }

    fn string(self) -> Result<String, ContractError> {
        match self.value {
            Value::String(text) => Ok(text),
            other => Err(Self::wrong(self.path, "string", &other)),
        }
    }

    fn boolean(self) -> Result<bool, ContractError> {
        match self.value {
            Value::Boolean(value) => Ok(value),
            other => Err(Self::wrong(self.path, "boolean", &other)),
        }
    }

    fn integer(self) -> Result<i64, ContractError> {
        match self.value {
            Value::Integer(value) => Ok(value),
            other => Err(Self::wrong(self.path, "integer", &other)),
        }
    }

    fn unsigned(self) -> Result<u64, ContractError> {
        self.within::<u64>(i128::from(i64::MAX))
    }

    fn small(self) -> Result<u32, ContractError> {
        self.within::<u32>(i128::from(u32::MAX))
    }

    fn within<T: TryFrom<i64>>(self, maximum: i128) -> Result<T, ContractError> {
        let key = self.path.clone();
        let value = self.integer()?;
        T::try_from(value).map_err(|_| ContractError::OutOfBounds {
            key,
            found: i128::from(value),
            minimum: 0,
            maximum,
        })
    }

    fn permission(self) -> Result<Permission, ContractError> {
        let key = self.path.clone();
        match self.string()?.as_str() {
            "allow" => Ok(Permission::Allow),
            "deny" => Ok(Permission::Deny),
            other => Err(ContractError::Malformed {
                key,
                expected: "\"allow\" or \"deny\"",
                found: crate::error::cut(other),
            }),
        }
    }
}
