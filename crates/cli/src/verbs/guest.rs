//! `belljar guest build|inspect`.

use std::path::PathBuf;

use belljar_guest_image::{BuildError, GuestImage, ImageError, Recipe, build};
use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{Format, json};
use crate::paths::Paths;

/// The guest image.
#[derive(Debug, Subcommand)]
pub enum Guest {
    /// Build it: kernel and firmware from pinned Debian packages, and the agent. The same input gives the same bytes
    #[command(after_help = "Example: belljar guest build")]
    Build {
        /// The agent (default: `belljar-agent` beside this program)
        #[arg(long, value_name = "FILE")]
        agent: Option<PathBuf>,
        /// The directory of images (default: in the data directory)
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Show each file's digest, size and version
    #[command(after_help = "Example: belljar guest inspect --verify")]
    Inspect {
        /// An image's directory (default: the current one)
        #[arg(long, value_name = "DIR")]
        image: Option<PathBuf>,
        /// Read every file and compare its digest
        #[arg(long)]
        verify: bool,
    },
}

impl Guest {
    /// Carries the verb out.
    pub fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Build { agent, out } => {
                let agent = match agent {
                    Some(agent) => agent,
                    None => beside("belljar-agent")?,
                };
                let out = out.unwrap_or_else(|| paths.data.join("guest"));
                let recipe = Recipe::builtin().map_err(|e| Failure::undecided(format!("this build's recipe: {e}")))?;
                let progress = |step| eprintln!("belljar: {step}");
                build(&recipe, &agent, &paths.cache, &out, &progress).map_err(build_failure)?;
                inspect(&open(&out)?, format)
            }
            Self::Inspect { image, verify } => {
                let image = open(&image.unwrap_or_else(|| paths.guest()))?;
                if verify {
                    image.verify().map_err(image_failure)?;
                }
                inspect(&image, format)
            }
        }
    }
}

/// Opens a guest image.
pub fn open(directory: &std::path::Path) -> Result<GuestImage, Failure> {
    GuestImage::open(directory).map_err(image_failure)
}

fn inspect(image: &GuestImage, format: Format) -> Result<i32, Failure> {
    match format {
        Format::Json => json(&image.inspect())?,
        Format::Text => println!("{}", image.inspect()),
    }
    Ok(0)
}

fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::undecided(format!("cannot find this program: {e}")))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::undecided(format!("{} is not there", path.display()))
        .hint("build it (cargo build --release -p belljar-agent) or name it with --agent"))
}

fn image_failure(error: ImageError) -> Failure {
    match error {
        // A file that differs from the manifest is a verdict; a missing one is not.
        ImageError::Digest { .. } | ImageError::Size { .. } => Failure::refused(error),
        _ => Failure::undecided(error),
    }
}

fn build_failure(error: BuildError) -> Failure {
    Failure::undecided(error)
}
