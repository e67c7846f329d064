//! Environment variables, and which of them cannot be left to the host.

use super::{check_text, conflict, count, malformed};
use crate::error::ContractError;
use crate::host_value::is_sha256;
use crate::model::{Container, HostType, MAX_ENV, MAX_TEXT, MAX_VOLUMES};

/// Beginnings of names that only the dynamic linker, the C library or an interpreter reads.
const LOADERS: [&str; 15] = [
    "BASH_FUNC_",
    "BUNDLE_",
    "COMPlus_",
    "CORECLR_",
    "DOTNET_",
    "DYLD_",
    "GCONV_",
    "GEM_",
    "GLIBC_",
    "LD_",
    "LUA_",
    "MALLOC_",
    "PERL5",
    "PYTHON",
    "RUBY",
];

/// Names that decide which program, library, script, configuration or trust root a program takes.
const DECIDING: [&str; 61] = [
    "BASHOPTS",
    "BASH_ENV",
    "CATALINA_OPTS",
    "CDPATH",
    "CLASSPATH",
    "COR_ENABLE_PROFILING",
    "COR_PROFILER",
    "COR_PROFILER_PATH",
    "CURL_CA_BUNDLE",
    "EDITOR",
    "ENV",
    "GETCONF_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GODEBUG",
    "HOME",
    "HOSTALIASES",
    "IFS",
    "JAVA_HOME",
    "JAVA_OPTS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCALDOMAIN",
    "LOCPATH",
    "NLSPATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PAGER",
    "PATH",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "REQUESTS_CA_BUNDLE",
    "RES_OPTIONS",
    "SHELL",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TEMP",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TMP",
    "TMPDIR",
    "TZDIR",
    "VISUAL",
    "_JAVA_OPTIONS",
];

/// Why the host must not choose the value of this variable, whatever its type; `None` when it may.
pub fn not_delegable(name: &str) -> Option<&'static str> {
    if LOADERS.iter().any(|start| name.starts_with(start)) {
        return Some("linkers, libraries or interpreters read it to decide which code they load");
    }
    if DECIDING.contains(&name) || name.starts_with("XDG_") {
        return Some("programs read it to decide which programs, files or keys they trust");
    }
    None
}

impl Container {
    pub(super) fn check_env(&self, key: &str) -> Result<(), ContractError> {
        count(&format!("{key}.env"), self.env.len(), 0, MAX_ENV)?;
        for (name, value) in &self.env {
            check_name(&format!("{key}.env"), name)?;
            check_text(&format!("{key}.env.{name}"), value, MAX_TEXT)?;
        }
        count(&format!("{key}.env_from_host"), self.env_from_host.len(), 0, MAX_VOLUMES)?;
        for (name, kind) in &self.env_from_host {
            check_name(&format!("{key}.env_from_host"), name)?;
            let at = format!("{key}.env_from_host.{name}");
            check_type(&at, kind)?;
            if self.env.contains_key(name) {
                return Err(conflict(at, format!("{key}.env.{name}"), "the value is fixed already"));
            }
            if let Some(why) = not_delegable(name) {
                return Err(ContractError::NotDelegable { key: at, why });
            }
        }
        Ok(())
    }
}

fn check_name(key: &str, name: &str) -> Result<(), ContractError> {
    if name.is_empty() || name.len() > 256 || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'=') {
        return malformed(key, "names of 1 to 256 printable ASCII characters without '='", name);
    }
    Ok(())
}

pub(super) fn check_type(key: &str, kind: &HostType) -> Result<(), ContractError> {
    match kind {
        HostType::Sha256(digits) if !is_sha256(digits) => {
            malformed(key, "sha256: and 64 lowercase hex digits", &kind.to_string())
        }
        _ => Ok(()),
    }
}
