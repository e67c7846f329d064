//! `belljar broker serve` and `belljar broker config`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use belljar_broker::{FileError, Settings, Standalone, StartError, settings};
use belljar_softtee::Keys;
use clap::Args;

use crate::failure::Failure;
use crate::output::{Format, json};
use crate::paths::Paths;
use crate::run::session::Interrupts;

/// What a broker is told; without options it serves this user's pods on a free port of the loopback.
#[derive(Debug, Args)]
pub struct Serve {
    /// Settings; `belljar broker config --example` documents every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, before those of the settings
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Directory for keys and store; $XDG_DATA_HOME/belljar/broker when nothing says otherwise
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// File with the owner's token (32 characters or more); made with a fresh token when it is not there
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Admit evidence of this user's software TEE, which protects nothing from its host
    #[arg(long)]
    allow_software_tee: bool,
}

impl Serve {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths) -> Result<i32, Failure> {
        let mut interrupts = Interrupts::listen()?;
        let mut settings = match &self.config {
            Some(file) => Settings::read(file).map_err(Failure::usage)?,
            None => Settings::default(),
        };
        if let Some(address) = self.listen {
            settings.listen = vec![address];
        }
        settings.data = self.data.or(settings.data);
        settings.admin.token = self.token_file.or(settings.admin.token);
        settings.allow_software_tee |= self.allow_software_tee;
        let keys = match settings.allow_software_tee {
            true => Some(Keys::load_or_create(&paths.softtee()).map_err(Failure::undecided)?),
            false => None,
        };
        if settings.allow_software_tee {
            eprintln!(
                "belljar: --allow-software-tee: this broker gives secrets to pods that nothing protects from their host"
            );
        }
        let root = keys.as_ref().map(|keys| keys.ark());
        let broker = Standalone::start(&settings, &paths.broker(), root).await.map_err(failure)?;
        for file in broker.made() {
            eprintln!("belljar: made {}", file.display());
        }
        eprintln!("belljar: the owner's token is in {}", broker.token_file().display());
        for url in broker.urls() {
            println!("{url}");
        }
        let _ = std::io::stdout().flush();
        interrupts.next().await;
        broker.shutdown().await;
        Ok(0)
    }
}

/// A mistake of the user's, or something that is not there.
fn failure(error: StartError) -> Failure {
    match error {
        StartError::Settings(_) | StartError::Config(_) | StartError::Key { .. } => Failure::usage(error),
        StartError::File(FileError::Mode { .. } | FileError::Owner { .. }) => Failure::usage(error),
        _ => Failure::undecided(error),
    }
}

/// Which settings to show.
#[derive(Debug, Args)]
pub struct Config {
    /// Print a documented broker.toml with every key and its default
    #[arg(long, required_unless_present = "check")]
    example: bool,
    /// Check a broker.toml
    #[arg(long, value_name = "FILE", conflicts_with = "example")]
    check: Option<PathBuf>,
}

impl Config {
    /// Carries the verb out.
    pub fn execute(self, format: Format) -> Result<i32, Failure> {
        if let Some(file) = self.check {
            Settings::read(&file).map_err(Failure::usage)?;
            match format {
                Format::Json => json(&serde_json::json!({ "file": file, "valid": true }))?,
                Format::Text => println!("{} can be used", file.display()),
            }
            return Ok(0);
        }
        print!("{}", settings::EXAMPLE);
        Ok(0)
    }
}
