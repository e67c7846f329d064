//! Converts one layer blob to a layer image, to measure speed and memory: `convert LAYER.tar[.gz|.zst] OUTPUT`.
//! Prints data blocks, root hash, salt, seconds and peak resident memory (VmHWM).

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use belljar_image::convert::{Compression, Expected, convert};
use belljar_image::{Limits, sha256_of};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(input), Some(output)) = (args.next(), args.next()) else { return Err("convert LAYER OUTPUT".into()) };
    let compression = match input.extension().and_then(|e| e.to_str()) {
        Some("gz") => Compression::Gzip,
        Some("zst") => Compression::Zstd,
        _ => Compression::None,
    };
    let open = || File::open(&input);
    let diff_id = match compression {
        Compression::None => sha256_of(open()?)?,
        Compression::Gzip => sha256_of(flate2::read::MultiGzDecoder::new(open()?))?,
        Compression::Zstd => sha256_of(zstd::stream::read::Decoder::new(open()?)?)?,
    };
    let expected = Expected { digest: sha256_of(open()?)?, size: open()?.metadata()?.len(), diff_id, compression };
    let image = File::options().read(true).write(true).create(true).truncate(true).open(&output)?;
    let start = Instant::now();
    let scratch = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = convert(open()?, &expected, &Limits::default(), image, scratch, |_| {})?;
    println!("data_blocks={} root={} salt={}", done.data_blocks, hex::encode(done.verity_root), hex::encode(done.salt));
    let mut status = String::new();
    File::open("/proc/self/status")?.read_to_string(&mut status)?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("seconds={:.2} {peak}", start.elapsed().as_secs_f64());
    Ok(())
}
