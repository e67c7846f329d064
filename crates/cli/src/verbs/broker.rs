//! `belljar broker serve`: a broker for pods on this and other machines, in memory. Its store, console and policies are a
//! later step; what is here is what `belljar run --broker` needs.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use belljar_broker::{AdminToken, Anchors, Broker, Config, Trust, serve_standalone};
use belljar_softtee::Keys;
use clap::Subcommand;

use crate::failure::Failure;
use crate::paths::Paths;
use crate::run::broker::read_token;
use crate::run::session::Interrupts;

/// The broker.
#[derive(Debug, Subcommand)]
pub enum BrokerVerb {
    /// Serve until a signal. Prints its URL, which holds its key, as the first line of stdout
    #[command(
        after_help = "Example: belljar broker serve --listen 127.0.0.1:8443 --token-file broker.token --allow-software-tee"
    )]
    Serve {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// File with the admin token (32 characters or more); made with a fresh token when it is not there
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// Admit evidence of this user's software TEE, which protects nothing from its host
        #[arg(long)]
        allow_software_tee: bool,
    },
}

impl BrokerVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths) -> Result<i32, Failure> {
        let Self::Serve { listen, token_file, allow_software_tee } = self;
        let mut interrupts = Interrupts::listen()?;
        if !token_file.exists() {
            make_token(&token_file)?;
        }
        let mut anchors = Anchors::amd();
        if allow_software_tee {
            let keys = Keys::load_or_create(&paths.softtee()).map_err(Failure::undecided)?;
            anchors = anchors.with_software_root(keys.ark());
            eprintln!(
                "belljar: --allow-software-tee: this broker gives secrets to pods that nothing protects from their host"
            );
        }
        let config = Config {
            trust: Trust { amd: anchors, ..Trust::default() },
            allow_software_tee,
            admin_token: Some(read_token(&token_file)?),
            ..Config::default()
        };
        let broker = Broker::new(config).map_err(Failure::usage)?;
        let listening = serve_standalone(&broker, listen).await.map_err(Failure::undecided)?;
        println!("{}", listening.url());
        let _ = std::io::stdout().flush();
        interrupts.next().await;
        listening.shutdown().await;
        Ok(0)
    }
}

fn make_token(file: &std::path::Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::undecided(format!("cannot make {}: {e}", file.display()));
    let token = AdminToken::generate().map_err(Failure::undecided)?;
    let mut made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    made.write_all(token.reveal().as_bytes()).and_then(|()| made.write_all(b"\n")).map_err(failed)?;
    eprintln!("belljar: made the admin token {}", file.display());
    Ok(())
}
