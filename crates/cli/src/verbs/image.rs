//! `belljar image layers`: prepares an image and shows its verity layers.

use belljar_image::PullPolicy;
use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{Format, json, size, table};
use crate::paths::Paths;
use crate::run::prepare;

/// Images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Pull or import an image into the store, and show each layer's verity root
    #[command(after_help = "Example: belljar image layers docker.io/library/alpine:3.22")]
    Layers {
        /// A registry reference, `oci:DIR[:tag]` or `oci-archive:FILE`
        image: String,
    },
}

impl ImageVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let Self::Layers { image } = self;
        let image = prepare(&image, PullPolicy::Missing, &paths.store()).await?;
        match format {
            Format::Json => {
                let layers: Vec<_> = image
                    .layers
                    .iter()
                    .map(|layer| {
                        serde_json::json!({
                            "diff_id": layer.diff_id, "verity_root": hex::encode(layer.verity_root),
                            "salt": hex::encode(&layer.salt), "data_blocks": layer.data_blocks, "file": layer.path,
                        })
                    })
                    .collect();
                json(&serde_json::json!({ "image_digest": image.manifest_digest, "layers": layers }))?;
            }
            Format::Text => {
                println!("{}", image.manifest_digest);
                let rows: Vec<Vec<String>> = image
                    .layers
                    .iter()
                    .map(|layer| {
                        vec![
                            size(layer.data_blocks.saturating_mul(4096)),
                            hex::encode(layer.verity_root),
                            layer.diff_id.clone(),
                        ]
                    })
                    .collect();
                print!("{}", table(&["SIZE", "VERITY ROOT", "LAYER"], &rows));
            }
        }
        Ok(0)
    }
}
