//! What `belljar run` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// Options of `belljar run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  belljar run docker.io/library/alpine:3.22 -- echo hello
  belljar run --secret model-key=./model.key --memory 512M oci:./layout:1
  echo hello | belljar run oci-archive:image.tar -- cat")]
pub struct RunOptions {
    /// A registry reference, `oci:DIR[:tag]` or `oci-archive:FILE`
    pub image: String,
    /// The command, instead of the image's own
    #[arg(last = true)]
    pub command: Vec<String>,
    /// A secret: the file's content appears at /run/secrets/NAME in the container, after attestation
    #[arg(long, value_name = "NAME=FILE")]
    pub secret: Vec<String>,
    /// Also offer this run's secrets to every program of the container at http://127.0.0.1:8006/cdh/resource/…
    #[arg(long)]
    pub secret_api: bool,
    /// An environment variable. It stands in the contract, which the host reads: secrets go into --secret
    #[arg(long, short = 'e', value_name = "K=V")]
    pub env: Vec<String>,
    /// The container's memory limit (units K, M, G are binary)
    #[arg(long, short = 'm', default_value = "256M", value_parser = parse_size)]
    pub memory: u64,
    /// The container's CPU limit; the VM has the next of 1, 2, 4, 8, 16, 32 vCPUs
    #[arg(long, default_value = "1", value_parser = parse_cpus)]
    pub cpus: u64,
    /// The space for what the container writes outside its mounts (in VM memory)
    #[arg(long, default_value = "64M", value_parser = parse_size)]
    pub scratch: u64,
    /// Which TEE to use; `auto` takes the hardware and says so when there is none
    #[arg(long, value_enum, default_value_t = TeeChoice::Auto)]
    pub tee: TeeChoice,
    /// Attest to this broker instead of one inside this process: https://HOST:PORT#sha256=KEY, as `belljar broker
    /// serve` prints it
    #[arg(long, value_name = "URL", requires = "broker_token")]
    pub broker: Option<String>,
    /// A file with the broker's admin token, to register this workload
    #[arg(long, value_name = "FILE", env = "BELLJAR_BROKER_TOKEN_FILE")]
    pub broker_token: Option<PathBuf>,
    /// Keep no record of this run in the data directory
    #[arg(long)]
    pub rm: bool,
    /// A name for the pod, for `belljar probe`
    #[arg(long)]
    pub name: Option<String>,
    /// The user in the container: NAME or UID[:GID]
    #[arg(long, short = 'u')]
    pub user: Option<String>,
    /// The working directory in the container
    #[arg(long, short = 'w')]
    pub workdir: Option<String>,
    /// The program, instead of the image's entry point
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Nothing in the image's file system can be written
    #[arg(long)]
    pub read_only: bool,
    /// When to ask the registry
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pub pull: Pull,
    /// Write a page about this run: measured and predicted, chain, contract, decision
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Print a table of the phases of the start to stderr
    #[arg(long)]
    pub timings: bool,
    /// Let the guest write its log to stderr. This is measured: the launch digest differs
    #[arg(long)]
    pub debug: bool,
    /// Seconds that the guest may take until it answers
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub boot_timeout: u64,
}

/// Which TEE to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TeeChoice {
    /// The hardware's, else the software TEE, with a notice
    Auto,
    /// AMD SEV-SNP
    Snp,
    /// Intel TDX
    Tdx,
    /// The software TEE: protects nothing from this host
    Software,
}

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Only when the image is not in the store
    Missing,
    /// Each time
    Always,
    /// Never
    Never,
}

/// Splits `NAME=VALUE`.
pub fn pair<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name, value)),
        _ => {
            let value = if option == "secret" { "FILE" } else { "VALUE" };
            Err(Failure::usage(format!("--{option} {text:?} is not NAME={value}"))
                .hint(format!("write --{option} NAME={value}")))
        }
    }
}

/// A size in bytes: a number with an optional unit K, M or G (binary), as docker reads it.
fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match lower.char_indices().last() {
        Some((at, 'k')) => (lower.get(..at), 10),
        Some((at, 'm')) => (lower.get(..at), 20),
        Some((at, 'g')) => (lower.get(..at), 30),
        _ => (Some(lower), 0),
    };
    let number: u64 = digits.unwrap_or_default().parse().map_err(|_| "not a size such as 512M or 2G".to_owned())?;
    let bytes = number.checked_shl(shift).filter(|b| b >> shift == number).ok_or("too large")?;
    if bytes < 4 << 20 {
        return Err("less than 4M".to_owned());
    }
    if bytes > 4 << 40 {
        return Err("more than 4096G".to_owned());
    }
    Ok(bytes)
}

/// CPUs in thousandths: `1`, `0.5`, `2.25`.
fn parse_cpus(text: &str) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u64 = whole.parse().map_err(|_| "not a number of CPUs such as 1 or 0.5".to_owned())?;
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a number of CPUs such as 1 or 0.5".to_owned());
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().map_err(|_| "not a number of CPUs".to_owned())?;
    let milli = whole.checked_mul(1000).and_then(|w| w.checked_add(thousandths)).ok_or("too many")?;
    match milli {
        0..10 => Err("less than 0.01".to_owned()),
        10..=32_000 => Ok(milli),
        _ => Err("more than 32".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("8388608"), Ok(8 << 20));
        assert_eq!(parse_size("1M"), Err("less than 4M".to_owned()));
        assert_eq!(parse_size("99999999999G"), Err("too large".to_owned()));
        assert_eq!(parse_size("M"), Err("not a size such as 512M or 2G".to_owned()));
        assert_eq!(parse_size("-5M"), Err("not a size such as 512M or 2G".to_owned()));
    }

    #[test]
    fn cpus_are_thousandths() {
        assert_eq!(parse_cpus("1"), Ok(1000));
        assert_eq!(parse_cpus("0.5"), Ok(500));
        assert_eq!(parse_cpus("2.25"), Ok(2250));
        assert_eq!(parse_cpus("0"), Err("less than 0.01".to_owned()));
        assert_eq!(parse_cpus("33"), Err("more than 32".to_owned()));
        assert!(parse_cpus("1.2345").is_err());
    }

    #[test]
    fn a_pair_needs_a_name() {
        assert_eq!(pair("env", "A=b=c").unwrap(), ("A", "b=c"));
        assert_eq!(pair("env", "=b").unwrap_err().cause, "--env \"=b\" is not NAME=VALUE");
    }
}
