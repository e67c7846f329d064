//! `make demo`: Belljar's main job on real input, for a person to watch. A model is trained and encrypted, packed into an
//! image and pushed to a registry; the image runs in an attested pod VM that gets the model's key; a page about the run is
//! written; and the host attacks it, each time in vain. Exit code 0 when everything went as it must, else 1.

#[path = "../demo/attacks.rs"]
mod attacks;
#[path = "../demo/call.rs"]
mod call;
#[path = "../demo/fraud.rs"]
mod fraud;
#[path = "../demo/pod.rs"]
mod pod;
#[path = "../demo/show.rs"]
mod show;
#[path = "../demo/text.rs"]
mod text;
#[path = "../demo/watch.rs"]
mod watch;
#[path = "../demo/work.rs"]
mod work;

use std::process::ExitCode;

use show::Trouble;
use watch::Watch;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("\nbelljar-demo: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), Trouble> {
    let mut watch = Watch::start();
    watch.step("The guest image: Debian's kernel, our agent, no shell");
    let work = work::Work::open("demo", None)?;
    work.guest_image()?;

    watch.step("The owner's desk: a fraud model is trained, and encrypted");
    let fraud = fraud::train(&work)?;

    watch.step("A real image, in a real registry on loopback");
    let registered = fraud::register(&work, &fraud)?;

    watch.step("belljar run: attested, then given its key");
    let run = pod::run(&work, &fraud, &registered)?;

    watch.step("The host attacks: each change must be refused, and the same run without the change must work");
    let attacks = attacks::all(&work, &fraud, &registered)?;

    watch.step("The page for the security officer");
    let last_word = pod::last_word(&run);
    pod::write_page(&work, run, &attacks)?;

    watch.end();
    attacks::judge(&attacks)?;
    println!("\n{last_word}");
    Ok(())
}
