//! The runtime's options that come with Create. Settings of a node stand in one place, `shim.toml`, so options that say anything are
//! refused rather than ignored.

use protobuf::well_known_types::any::Any;

use crate::error::ShimError;

/// Whether these options may be ignored.
///
/// # Errors
/// [`ShimError::InvalidArgument`] when they say something.
pub fn check(options: Option<&Any>) -> Result<(), ShimError> {
    match options {
        Some(options) if !options.value.is_empty() => Err(ShimError::InvalidArgument(format!(
            "the runtime's options ({}) are not read; remove them from containerd's configuration and use /etc/belljar/shim.toml",
            options.type_url
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_say_something_are_refused() {
        assert_eq!(check(None), Ok(()));
        assert_eq!(check(Some(&Any::new())), Ok(()));
        let options = Any { type_url: "runtimeoptions.v1.Options".into(), value: vec![1], ..Any::new() };
        assert!(check(Some(&options)).unwrap_err().to_string().contains("runtimeoptions.v1.Options"));
    }
}
