//! A broker in a process of its own, with the admin API, to try `belljar run --broker URL` against:
//!
//! ```text
//! cargo run -p belljar-broker --example broker -- [--software-ark ARK.der] [--listen 127.0.0.1:0]
//! ```
//!
//! Prints two lines: the URL, and the admin token. Ends with Ctrl-C.

use belljar_broker::{AdminToken, Anchors, Broker, Config, Trust, serve_standalone};
use std::{error::Error, net::SocketAddr};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut anchors = Anchors::amd();
    let mut allow_software_tee = false;
    let mut listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--software-ark" => {
                anchors = anchors.with_software_root(&std::fs::read(value)?);
                allow_software_tee = true;
            }
            "--listen" => listen = value.parse()?,
            other => return Err(format!("{other} is not known").into()),
        }
    }
    let token = AdminToken::generate()?;
    let config = Config {
        trust: Trust { amd: anchors, ..Trust::default() },
        allow_software_tee,
        admin_token: Some(token.clone()),
        ..Config::default()
    };
    let listening = serve_standalone(&Broker::new(config)?, listen).await?;
    println!("{}\n{}", listening.url(), token.reveal());
    tokio::signal::ctrl_c().await?;
    listening.shutdown().await;
    Ok(())
}
