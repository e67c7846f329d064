//! Imports or pulls an image: `import STORE REFERENCE`. Prints the layers, seconds and peak resident memory (VmHWM).

use std::error::Error;
use std::fs;
use std::time::Instant;

use belljar_image::{Progress, PullPolicy, Reference, Store};

struct Print;

impl Progress for Print {
    fn cached(&self, index: usize) {
        println!("layer {index}: in the store");
    }

    fn finished(&self, index: usize) {
        println!("layer {index}: done");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, reference] = args.as_slice() else { return Err("import STORE REFERENCE".into()) };
    let start = Instant::now();
    let store = Store::open(store.as_ref())?;
    let reference: Reference = reference.parse()?;
    let image = store.ensure(&reference, PullPolicy::Missing, &Print).await?;
    println!("{}", image.manifest_digest);
    for layer in &image.layers {
        println!("{} {} {}", layer.path.display(), layer.data_blocks, hex::encode(layer.verity_root));
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("seconds={:.2} {peak}", start.elapsed().as_secs_f64());
    Ok(())
}
