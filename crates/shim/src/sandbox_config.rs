//! `PodSandboxConfig` of the container runtime interface, as the options of `CreateSandbox` carry it: of all its fields those that name the
//! pod, and the values that a contract may leave to the host. Field numbers are those of `cri-api`, `runtime/v1/api.proto`.

use std::collections::BTreeMap;

use protobuf::{CodedInputStream, rt::WireType};

/// Most bytes of one.
pub const MAX: usize = 4 << 20;

/// The fields that are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's host name.
    pub hostname: String,
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup, which the kubelet has made.
    pub cgroup_parent: String,
}

impl SandboxConfig {
    /// Reads the message.
    ///
    /// # Errors
    /// Malformed, or longer than [`MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, protobuf::Error> {
        let mut config = Self::default();
        if bytes.len() > MAX {
            return Err(std::io::Error::other("a sandbox's configuration is longer than 4 MiB").into());
        }
        fields(bytes, |number, value| {
            match number {
                1 => fields(value, |number, value| {
                    match number {
                        1 => config.name = text(value)?,
                        3 => config.namespace = text(value)?,
                        _ => {}
                    }
                    Ok(())
                })?,
                2 => config.hostname = text(value)?,
                4 => fields(value, |number, value| {
                    match number {
                        1 => config.nameservers.push(text(value)?),
                        2 => config.searches.push(text(value)?),
                        3 => config.options.push(text(value)?),
                        _ => {}
                    }
                    Ok(())
                })?,
                7 => {
                    let (mut key, mut content) = (String::new(), String::new());
                    fields(value, |number, value| {
                        match number {
                            1 => key = text(value)?,
                            2 => content = text(value)?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    config.annotations.insert(key, content);
                }
                8 => fields(value, |number, value| {
                    if number == 1 {
                        config.cgroup_parent = text(value)?;
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(config)
    }
}

/// Calls `take` with each field that is a string, bytes or a message.
fn fields(
    bytes: &[u8],
    mut take: impl FnMut(u32, &[u8]) -> Result<(), protobuf::Error>,
) -> Result<(), protobuf::Error> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let (number, wire) = (tag >> 3, tag & 7);
        if wire == WireType::LengthDelimited as u32 {
            take(number, &input.read_bytes()?)?;
        } else {
            let wire = WireType::new(wire).ok_or_else(|| std::io::Error::other("unknown wire type"))?;
            input.skip_field(wire)?;
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, protobuf::Error> {
    Ok(String::from_utf8(bytes.to_vec()).map_err(std::io::Error::other)?)
}

/// Any bytes, for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = SandboxConfig::parse(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fields_of_the_kubelet_are_found() {
        let bytes =
            b"\x0a\x0f\x0a\x03web\x12\x02id\x1a\x02ns\x20\x01\x12\x05web-0\x22\x12\x0a\x0410.1\x12\x05a.svc\x1a\x03nd1\
            \x3a\x06\x0a\x01k\x12\x01v\x42\x0a\x0a\x08/kubepod\x48\x07";
        let config = SandboxConfig::parse(bytes).unwrap();
        let expected = SandboxConfig {
            name: "web".into(),
            namespace: "ns".into(),
            hostname: "web-0".into(),
            nameservers: vec!["10.1".into()],
            searches: vec!["a.svc".into()],
            options: vec!["nd1".into()],
            annotations: BTreeMap::from([("k".into(), "v".into())]),
            cgroup_parent: "/kubepod".into(),
        };
        assert_eq!(config, expected);
        assert!(SandboxConfig::parse(&bytes[..bytes.len() - 4]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&data);
        }
    }
}
