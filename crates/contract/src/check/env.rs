//! Environment variables, and which of them cannot be left to the host.

use super::{check_text, conflict, count, malformed};
use crate::error::ContractError;
use crate::host_value::is_sha256;
use crate::model::{Container, HostType, MAX_ENV, MAX_TEXT, MAX_VOLUMES};

/// Beginnings of names that only the dynamic linker, the C library, an interpreter or a builder reads.
const LOADERS: &[&str] = &[
    "BASH_FUNC_",
    "BUNDLE_",
    "BUN_",
    "CARGO_",
    "COMPOSER_",
    "COMPlus_",
    "CORECLR_",
    "COREPACK_",
    "DENO_",
    "DOTNET_",
    "DYLD_",
    "ELIXIR_",
    "ERL_",
    "GCONV_",
    "GEM_",
    "GLIBC_",
    "GST_",
    "GUILE_",
    "HEX_",
    "JULIA_",
    "LD_",
    "LUA_",
    "MAGICK_",
    "MALLOC_",
    "MIX_",
    "OMPI_MCA_",
    "PERL",
    "PIP_",
    "PYTHON",
    "QT_",
    "RUBY",
    "RUSTUP_",
    "TS_NODE_",
    "UV_",
    "UWSGI_",
    "VK_",
    "YARN_",
];

/// Beginnings of names of which every one decides about configuration or trust.
const TRUST: &[&str] = &[
    "AWS_ENDPOINT_URL",
    "CLOUDSDK_",
    "GIT_CONFIG",
    "GIT_PROXY_SSL_",
    "GIT_SSL_",
    "GNUTLS_",
    "KRB5",
    "LDAPTLS_",
    "OPENSSL_",
    "PGSSL",
    "SPRING_CONFIG_",
    "XDG_",
];

/// Ends of names that hold options of a Java machine, as `ES_JAVA_OPTS`: one of them loads an agent.
const OPTIONS: &[&str] = &["JAVA_OPTIONS", "JAVA_OPTS", "JVM_ARGS", "JVM_OPTS"];

/// Names that decide which program, library, script, configuration or trust root a program takes.
const DECIDING: &[&str] = &[
    "ANT_ARGS",
    "ANT_OPTS",
    "ASPNETCORE_CONTENTROOT",
    "ASPNETCORE_HOSTINGSTARTUPASSEMBLIES",
    "ASPNETCORE_WEBROOT",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AZURE_CONFIG_DIR",
    "BASHOPTS",
    "BASH_ENV",
    "BOTO_CONFIG",
    "BROWSER",
    "CAML_LD_LIBRARY_PATH",
    "CATALINA_OPTS",
    "CDPATH",
    "CELERY_CONFIG_MODULE",
    "CLASSPATH",
    "CONSUL_CACERT",
    "CONSUL_CAPATH",
    "CONSUL_HTTP_SSL_VERIFY",
    "COR_ENABLE_PROFILING",
    "COR_PROFILER",
    "COR_PROFILER_PATH",
    "CUDA_INJECTION64_PATH",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "DJANGO_SETTINGS_MODULE",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "EDITOR",
    "ELECTRON_RUN_AS_NODE",
    "ENV",
    "ETCDCTL_CACERT",
    "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
    "FLASK_APP",
    "FLASK_DEBUG",
    "FPATH",
    "FREETDSCONF",
    "GCE_METADATA_HOST",
    "GETCONF_DIR",
    "GHCRTS",
    "GHC_PACKAGE_PATH",
    "GIO_EXTRA_MODULES",
    "GIO_MODULE_DIR",
    "GIT_ALLOW_PROTOCOL",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_ASKPASS",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "GIT_WORK_TREE",
    "GNUPGHOME",
    "GOCOVERDIR",
    "GODEBUG",
    "GOENV",
    "GOFLAGS",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOPATH",
    "GOPROXY",
    "GOROOT",
    "GOTOOLCHAIN",
    "GRADLE_OPTS",
    "GRADLE_USER_HOME",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GRPC_SSL_CIPHER_SUITES",
    "GRPC_XDS_BOOTSTRAP",
    "GRPC_XDS_BOOTSTRAP_CONFIG",
    "GTK_MODULES",
    "GTK_PATH",
    "GUNICORN_CMD_ARGS",
    "HF_ENDPOINT",
    "HF_HOME",
    "HOME",
    "HOSTALIASES",
    "HTTPLIB2_CA_CERTS",
    "IFS",
    "JAVA_HOME",
    "JAVA_TOOL_OPTIONS",
    "KUBECONFIG",
    "LDAPCONF",
    "LDAPRC",
    "LESS",
    "LESSCLOSE",
    "LESSEDIT",
    "LESSKEY",
    "LESSKEYIN",
    "LESSOPEN",
    "LOCALDOMAIN",
    "LOCPATH",
    "MANPAGER",
    "MAVEN_ARGS",
    "MAVEN_OPTS",
    "MYSQL_HOME",
    "NCCL_CONF_FILE",
    "NCCL_NET_PLUGIN",
    "NCCL_TUNER_PLUGIN",
    "NETRC",
    "NLSPATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "NODE_V8_COVERAGE",
    "NOMAD_CACERT",
    "NOMAD_CAPATH",
    "NOMAD_SKIP_VERIFY",
    "OCAMLPATH",
    "OCAMLRUNPARAM",
    "OCL_ICD_VENDORS",
    "ODBCINI",
    "ODBCINSTINI",
    "ODBCSYSINI",
    "PAGER",
    "PATH",
    "PGCHANNELBINDING",
    "PGGSSENCMODE",
    "PGOPTIONS",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGREQUIRESSL",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "REQUESTS_CA_BUNDLE",
    "RES_OPTIONS",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "R_ENVIRON",
    "R_ENVIRON_USER",
    "R_HOME",
    "R_LIBS",
    "R_LIBS_SITE",
    "R_LIBS_USER",
    "R_PROFILE",
    "R_PROFILE_USER",
    "SASL_CONF_PATH",
    "SASL_PATH",
    "SBT_OPTS",
    "SHELL",
    "SHELLOPTS",
    "SPRING_APPLICATION_JSON",
    "SSH_ASKPASS",
    "SSH_ASKPASS_REQUIRE",
    "SSH_AUTH_SOCK",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SYSTEM_WGETRC",
    "TCLLIBPATH",
    "TEMP",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TMP",
    "TMPDIR",
    "TNS_ADMIN",
    "TORCH_HOME",
    "TZDIR",
    "VAULT_CACERT",
    "VAULT_CAPATH",
    "VAULT_SKIP_VERIFY",
    "VAULT_TLS_SERVER_NAME",
    "VIRTUAL_ENV",
    "VISUAL",
    "WEBSOCKET_CLIENT_CA_BUNDLE",
    "WGETRC",
    "ZDOTDIR",
];

/// Why the host must not choose the value of this variable, whatever its type; `None` when it may.
pub fn not_delegable(name: &str) -> Option<&'static str> {
    // npm takes these in either case (npm-config(7)).
    let npm = name.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("npm_config_"));
    if npm || LOADERS.iter().any(|start| name.starts_with(start)) {
        return Some("linkers, libraries or interpreters read it to decide which code they load");
    }
    let part = TRUST.iter().any(|start| name.starts_with(start)) || OPTIONS.iter().any(|end| name.ends_with(end));
    if part || DECIDING.contains(&name) {
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
