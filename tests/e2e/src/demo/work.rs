//! The directory of the demo, `target/demo`, and of the benchmark, `target/bench`: it can be removed at any time, and is
//! used again by the next run.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use belljar_e2e::programs::{belljar, finish, program, root};
use belljar_guest_image::GuestImage;

use crate::show::{Doing, Trouble, say, seconds};

/// The directory.
#[derive(Debug)]
pub struct Work {
    directory: PathBuf,
    runtime: PathBuf,
}

impl Work {
    /// Makes `target/NAME` where it is missing. What an older run left of layers, image and registry goes, so that all of it
    /// is done again. Sockets and notes of running pods go to `runtime`, or below it too.
    pub fn open(name: &str, runtime: Option<&Path>) -> Result<Self, Trouble> {
        let directory = root().join("target").join(name);
        let runtime = runtime.map_or_else(|| directory.join("run"), Path::to_owned);
        let work = Self { directory, runtime };
        for part in ["data/store", "data/runs", "fraud", "layout", "registry", "attacks"] {
            let path = work.path(part);
            if let Err(e) = fs::remove_dir_all(&path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                return Err(e).doing(format!("remove {}", path.display()));
            }
        }
        for part in ["data", "run", "attacks"] {
            let path = work.path(part);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .doing(format!("make {}", path.display()))?;
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&path, mode).doing(format!("close {} to others", path.display()))?;
        }
        Ok(work)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A call of `belljar` that keeps everything in it.
    pub fn belljar(&self) -> Command {
        let mut command = belljar(&self.path("data"));
        command.env("XDG_RUNTIME_DIR", &self.runtime).env_remove("BELLJAR_GUEST").env_remove("BELLJAR_QEMU");
        command
    }

    /// Builds the guest image where there is none, and where the agent or `belljar`, which holds the recipe, is another one
    /// by now.
    pub fn guest_image(&self) -> Result<GuestImage, Trouble> {
        let stamp = self.path("data/guest.stamp");
        let makers = format!("{} {}", sha256_of(&program("belljar-agent"))?, sha256_of(&program("belljar"))?);
        let directory = self.path("data/guest");
        if !directory.join("current").exists() || fs::read_to_string(&stamp).ok().as_ref() != Some(&makers) {
            let built = finish(self.belljar().args(["guest", "build"]));
            if built.code != 0 {
                return Err(Trouble(format!(
                    "belljar guest build ended with code {}: {}",
                    built.code,
                    built.stderr.trim()
                )));
            }
            fs::write(&stamp, makers).doing(format!("write {}", stamp.display()))?;
            say(format_args!("built in {}", seconds(built.took)));
        }
        let image = GuestImage::open(&directory).doing("open the guest image")?;
        image.verify().doing("verify the guest image")?;
        let manifest = image.manifest();
        say(format_args!("guest image   {}", image.id()));
        say(format_args!("kernel        {}, agent {}", manifest.kernel_release, manifest.agent_version));
        say("every file has the digest of its manifest");
        Ok(image)
    }
}

fn sha256_of(path: &Path) -> Result<String, Trouble> {
    let bytes = fs::read(path).doing(format!("read {}", path.display()))?;
    Ok(hex::encode(digest(&SHA256, &bytes)))
}
