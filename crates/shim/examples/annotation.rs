//! Prints the initdata annotation of a pod, for tests without a cluster: `annotation STORE [network] [exec=CMD]… NAME=IMAGE [ARG…] [/ NAME=IMAGE …]`.
use std::error::Error;

use belljar_contract::{
    Contract, Dns, ImageFacts, Initdata, Layer, Network, Permission, Resources, RunOptions, to_annotation,
};
use belljar_image::{PullPolicy, Silent, Store};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1).peekable();
    let store = Store::open(words.next().ok_or("no STORE")?.as_ref())?;
    let (mut whole, mut network, mut exec): (Option<Contract>, _, Vec<Vec<String>>) = (None, false, Vec::new());
    while let Some(word) = words.next() {
        if word == "network" {
            network = true;
            continue;
        }
        let (name, value) = word.split_once('=').ok_or("expected NAME=IMAGE")?;
        if name == "exec" {
            exec.push(value.split(' ').map(str::to_owned).collect());
            continue;
        }
        let image = store.ensure(&value.parse()?, PullPolicy::Missing, &Silent).await?;
        let layers = image.layers.iter().map(|layer| Layer {
            verity_root: hex::encode(layer.verity_root),
            salt: hex::encode(&layer.salt),
            data_blocks: layer.data_blocks,
        });
        let facts = ImageFacts {
            reference: value,
            manifest_digest: &image.manifest_digest,
            config: &image.config,
            layers: layers.collect(),
        };
        let mut args = Vec::new();
        while let Some(arg) = words.next_if(|word| word != "/") {
            args.push(arg);
        }
        words.next();
        let options = RunOptions {
            args,
            logs: Permission::Allow,
            stdin: Permission::Allow,
            resources: Resources { memory_bytes: Some(64 << 20), cpu_millis: Some(500), ..Resources::default() },
            ..RunOptions::default()
        };
        let mut contract = Contract::from_image(name, &facts, &options, None)?;
        for container in contract.containers.values_mut() {
            container.exec.clone_from(&exec);
        }
        match &mut whole {
            Some(whole) => whole.containers.append(&mut contract.containers),
            None => whole = Some(contract),
        }
    }
    let mut contract = whole.ok_or("no container")?;
    if network {
        contract.pod.network = Network::Host;
        contract.pod.dns = Dns::Host;
    }
    contract.check()?;
    println!("{}", to_annotation(Initdata::with_contract(&contract).to_toml().as_bytes()));
    Ok(())
}
