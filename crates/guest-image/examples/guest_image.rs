//! `guest_image build AGENT CACHE OUT`, `guest_image inspect DIR`, `guest_image bare INIT INITRD`: the library by hand, for
//! tests and for measuring. A person uses `belljar guest`.

use std::error::Error;
use std::path::Path;

use belljar_guest_image::{GuestImage, Recipe, bare_initrd, build};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["build", agent, cache, out] => {
            let recipe = Recipe::builtin()?;
            let say = |step| eprintln!("{step}");
            let manifest = build(&recipe, Path::new(agent), Path::new(cache), Path::new(out), &say)?;
            println!("{}", manifest.id()?);
        }
        ["inspect", directory] => {
            let image = GuestImage::open(Path::new(directory))?;
            image.verify()?;
            print!("{}", image.inspect());
        }
        ["bare", init, initrd] => std::fs::write(initrd, bare_initrd(Path::new(init))?)?,
        _ => return Err("build AGENT CACHE OUT | inspect DIR | bare INIT INITRD".into()),
    }
    Ok(())
}
