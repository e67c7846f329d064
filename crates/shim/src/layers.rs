//! Makes sure that the layers of a contract lie in this node's store: they are there already, or they are made from what containerd has
//! pulled, or fetched from the image's registry by its digest. The verity roots of the contract decide which file is which layer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use belljar_contract::Contract;
use belljar_image::{ImageError, LayerImage, PullPolicy, Reference, Silent, Store};
use belljar_launch::LayerDisk;
use tokio::task::JoinSet;

use crate::config::Config;

/// Why a layer is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayersError {
    /// The store, or an image.
    #[error("image {image}: {error}")]
    Image {
        /// The image as the contract names it.
        image: String,
        /// What happened.
        error: ImageError,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// Not on this node, and not to be fetched.
    #[error("image {image} ({digest}) is not on this node: {why}")]
    NotHere {
        /// The image as the contract names it.
        image: String,
        /// Its manifest digest.
        digest: String,
        /// Why it was not fetched.
        why: String,
    },
    /// The image's layers are others than the contract says.
    #[error(
        "image {image} ({digest}) has no layer with the verity root {root} that the contract names; make the contract anew with this version of belljar"
    )]
    Root {
        /// The image as the contract names it.
        image: String,
        /// Its manifest digest.
        digest: String,
        /// The root.
        root: String,
    },
    /// A root of the contract is no SHA-256.
    #[error("the contract's verity root {0:?} is not 64 hex digits")]
    Malformed(String),
}

/// One image of the contract.
#[derive(Debug, Clone)]
struct Wanted {
    image: String,
    digest: String,
    roots: Vec<[u8; 32]>,
}

/// The layer files of all containers of the contract. Images that have to be prepared are prepared at once; two shims that want the same
/// layer wait for each other.
///
/// # Errors
/// [`LayersError`].
pub async fn ensure(contract: &Contract, config: &Config) -> Result<Vec<LayerDisk>, LayersError> {
    let store = Store::open(&config.store())?.with_docker_config(config.docker_config.clone());
    let mut images: BTreeMap<&str, Wanted> = BTreeMap::new();
    for container in contract.containers.values() {
        let wanted = images.entry(&container.image_digest).or_insert_with(|| Wanted {
            image: container.image.clone(),
            digest: container.image_digest.clone(),
            roots: Vec::new(),
        });
        for layer in &container.layers {
            let mut root = [0; 32];
            hex::decode_to_slice(&layer.verity_root, &mut root)
                .map_err(|_| LayersError::Malformed(layer.verity_root.clone()))?;
            if !wanted.roots.contains(&root) {
                wanted.roots.push(root);
            }
        }
    }
    let all: Vec<[u8; 32]> = images.values().flat_map(|wanted| wanted.roots.iter().copied()).collect();
    let mut found: BTreeMap<[u8; 32], PathBuf> = by_root(store.layers_by_root(&all)?);
    let mut making = JoinSet::new();
    for wanted in images.into_values() {
        if !wanted.roots.iter().all(|root| found.contains_key(root)) {
            making.spawn(make(store.clone(), wanted, config.clone()));
        }
    }
    while let Some(made) = making.join_next().await {
        let made =
            made.map_err(|error| ImageError::Store { path: config.store(), source: std::io::Error::other(error) })?;
        found.append(&mut made?);
    }
    Ok(found.into_iter().map(|(verity_root, path)| LayerDisk { path, verity_root }).collect())
}

fn by_root(layers: Vec<LayerImage>) -> BTreeMap<[u8; 32], PathBuf> {
    layers.into_iter().map(|layer| (layer.verity_root, layer.path)).collect()
}

async fn make(store: Store, wanted: Wanted, config: Config) -> Result<BTreeMap<[u8; 32], PathBuf>, LayersError> {
    let failed = |error| LayersError::Image { image: wanted.image.clone(), error };
    let image = match store.ensure_blobs(&config.content, &wanted.digest, &Silent).await {
        Ok(image) => image,
        Err(ImageError::NoSuchBlob { .. } | ImageError::NoSuchLayout { .. }) => {
            let reference = fetchable(&wanted, &config)?;
            tracing::info!(%reference, "image is not on this node, fetching it");
            store.ensure(&reference, PullPolicy::Missing, &Silent).await.map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let mut made = by_root(image.layers);
    made.retain(|root, _| wanted.roots.contains(root));
    match wanted.roots.iter().find(|root| !made.contains_key(*root)) {
        Some(root) => Err(LayersError::Root { image: wanted.image, digest: wanted.digest, root: hex::encode(root) }),
        None => Ok(made),
    }
}

/// The image by its digest, at the registry that the contract names.
fn fetchable(wanted: &Wanted, config: &Config) -> Result<Reference, LayersError> {
    let not_here =
        |why: String| LayersError::NotHere { image: wanted.image.clone(), digest: wanted.digest.clone(), why };
    if !config.pull {
        return Err(not_here("fetching is turned off (pull = false); pull it with `crictl pull`".to_owned()));
    }
    match wanted.image.parse() {
        Ok(Reference::Registry(registry)) => {
            format!("{}/{}@{}", registry.registry(), registry.repository(), wanted.digest)
                .parse()
                .map_err(|error| not_here(format!("{error}")))
        }
        Ok(_) => Err(not_here("its name is no registry's; push it to one".to_owned())),
        Err(error) => Err(not_here(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(image: &str) -> Wanted {
        Wanted { image: image.into(), digest: format!("sha256:{}", "a".repeat(64)), roots: Vec::new() }
    }

    #[test]
    fn an_image_is_fetched_by_digest_from_the_registry_of_its_name() {
        let config = Config::default();
        let reference = fetchable(&wanted("docker.io/library/alpine:3.22"), &config).unwrap();
        assert_eq!(reference.to_string(), format!("docker.io/library/alpine@sha256:{}", "a".repeat(64)));
        let error = fetchable(&wanted("oci:/layout:1"), &config).unwrap_err().to_string();
        assert!(error.ends_with("its name is no registry's; push it to one"), "{error}");
        let closed = Config { pull: false, ..config };
        let error = fetchable(&wanted("docker.io/library/alpine:3.22"), &closed).unwrap_err().to_string();
        assert!(error.contains("pull = false"), "{error}");
    }
}
