//! Finds virtio devices by the names that the host gave them: serial ports by name, disks by serial. There is no udev,
//! so `/sys` is read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Longest name that is read, in bytes; a virtio-blk serial has at most 20.
const MAX_NAME: usize = 128;

/// The device file of the virtio-serial port called `name`, for example `/dev/vport1p1`; `None` when there is none.
///
/// Port names arrive on a control queue after the driver has started, so the search is repeated until `patience` is over.
pub fn serial_port(name: &str, patience: Duration) -> Option<PathBuf> {
    find(Path::new("/sys/class/virtio-ports"), "name", name, patience)
}

/// The device file of the virtio-blk disk with this serial, for example `/dev/vda`.
pub fn disk(serial: &str) -> Option<PathBuf> {
    find(Path::new("/sys/block"), "serial", serial, Duration::ZERO)
}

/// `major:minor` of a disk's device file, as the device mapper wants it.
pub fn device_number(device: &Path) -> io::Result<String> {
    let number = rustix::fs::stat(device)?.st_rdev;
    Ok(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

fn find(class: &Path, attribute: &str, wanted: &str, patience: Duration) -> Option<PathBuf> {
    let deadline = Instant::now() + patience;
    loop {
        let entries = fs::read_dir(class).into_iter().flatten().flatten();
        let found = entries.map(|entry| entry.file_name()).find(|device| {
            let value = fs::read(class.join(device).join(attribute)).unwrap_or_default();
            value.len() <= MAX_NAME && value.trim_ascii_end() == wanted.as_bytes()
        });
        match found {
            Some(device) => return Some(Path::new("/dev").join(device)),
            None if Instant::now() >= deadline => return None,
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        let class = std::env::temp_dir().join(format!("belljar-ports-{}", std::process::id()));
        for (device, name) in [("vport1p1", "org.belljar.agent\n"), ("vport1p2", "org.belljar.agent2\n")] {
            fs::create_dir_all(class.join(device)).unwrap();
            fs::write(class.join(device).join("name"), name).unwrap();
        }
        let find = |wanted| find(&class, "name", wanted, Duration::ZERO);
        assert_eq!(find("org.belljar.agent2"), Some("/dev/vport1p2".into()));
        assert_eq!(find("org.belljar.agent"), Some("/dev/vport1p1".into()));
        assert_eq!(find("org.belljar"), None);
        fs::remove_dir_all(class).unwrap();
    }
}
