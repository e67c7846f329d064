//! Debian's bzImage, and the ELF inside it.
//!
//! Source: the Linux x86 boot protocol (`Documentation/arch/x86/boot.rst`), sections "The Real-Mode Kernel Header"
//! (`setup_sects` at 0x1f1, `HdrS` at 0x202, version at 0x206, `payload_offset` and `payload_length` at 0x248). The payload of this
//! kernel is one zstd frame followed by the uncompressed size as four bytes, which is no part of the frame.

use std::io::Read;

use crate::elf::{Elf, ElfError};

/// An unpacked kernel larger than this is refused: ours has 55 MiB.
const MAX_VMLINUX: u32 = 256 * 1024 * 1024;

/// Why a bzImage did not give a kernel that can be started through PVH.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No `HdrS` at 0x202.
    #[error("not a bzImage: the boot header is missing")]
    NotBzImage,
    /// Boot protocol before 2.08 has no payload fields.
    #[error("the boot protocol {found:#x} is older than 0x208 and does not say where the kernel lies")]
    OldProtocol {
        /// `version` of the boot header.
        found: u16,
    },
    /// The payload lies outside of the file.
    #[error("the kernel inside the bzImage lies outside of the file; it is truncated or damaged")]
    Truncated,
    /// The payload is compressed in another way.
    #[error("the kernel inside the bzImage is not compressed with zstd (it begins with {found})")]
    NotZstd {
        /// The first four bytes in hex.
        found: String,
    },
    /// The unpacked size is not what the trailer says, or too large.
    #[error("the kernel unpacks to {found} bytes, expected {expected} (at most {MAX_VMLINUX})")]
    Size {
        /// What the trailer of the payload says.
        expected: u32,
        /// How many bytes came out (one more than allowed at most).
        found: u64,
    },
    /// The zstd frame is damaged.
    #[error("the kernel inside the bzImage cannot be unpacked: {0}")]
    Unpack(String),
    /// What came out is no ELF file.
    #[error("the unpacked kernel is damaged: {0}")]
    Elf(#[from] ElfError),
    /// No PVH entry.
    #[error("the kernel has no PVH entry; it was built without CONFIG_PVH")]
    NoPvh,
}

/// The ELF kernel with its PVH note, unpacked from the bytes of a bzImage.
pub fn vmlinux_of(bzimage: &[u8]) -> Result<Vec<u8>, KernelError> {
    if bzimage.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelError::NotBzImage);
    }
    let version = bzimage.get(0x206..).and_then(|rest| rest.first_chunk()).copied().map(u16::from_le_bytes);
    let version = version.ok_or(KernelError::Truncated)?;
    if version < 0x208 {
        return Err(KernelError::OldProtocol { found: version });
    }
    let frame_and_size = payload(bzimage).ok_or(KernelError::Truncated)?;
    let (frame, size) = frame_and_size.split_last_chunk().ok_or(KernelError::Truncated)?;
    let expected = u32::from_le_bytes(*size);
    if !frame.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(KernelError::NotZstd { found: hex::encode(frame.get(..4).unwrap_or(frame)) });
    }
    if expected > MAX_VMLINUX {
        return Err(KernelError::Size { expected, found: 0 });
    }
    let mut vmlinux = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    let unpacker = zstd::Decoder::with_buffer(frame).map_err(|error| KernelError::Unpack(error.to_string()))?;
    unpacker
        .take(u64::from(expected) + 1)
        .read_to_end(&mut vmlinux)
        .map_err(|error| KernelError::Unpack(error.to_string()))?;
    if u32::try_from(vmlinux.len()) != Ok(expected) {
        return Err(KernelError::Size { expected, found: u64::try_from(vmlinux.len()).unwrap_or(u64::MAX) });
    }
    Elf::new(&vmlinux)?.pvh_entry()?.ok_or(KernelError::NoPvh)?;
    Ok(vmlinux)
}

/// The reader of bzImages on any bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = vmlinux_of(data);
}

fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    // zero means four, says the boot protocol
    let setup_sectors = match *bzimage.get(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let word = |at: usize| {
        let bytes = bzimage.get(at..)?.first_chunk().copied()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    bzimage.get(start..start.checked_add(word(0x24c)?)?)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    /// A bzImage around an ELF file of one PVH note.
    fn bzimage() -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(120, 0);
        elf[16] = 2;
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 4;
        elf[72] = 120;
        elf[96] = 24;
        for word in [4u32, 8, 18] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
        elf.extend_from_slice(b"Xen\0\x70\x03\0\x01\0\0\0\0");
        wrap(&elf)
    }

    fn wrap(elf: &[u8]) -> Vec<u8> {
        let mut payload = zstd::encode_all(elf, 3).unwrap();
        payload.extend_from_slice(&(elf.len() as u32).to_le_bytes());
        let mut image = vec![0u8; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(&[0; 16]);
        image.extend_from_slice(&payload);
        image.extend_from_slice(b"what follows is ignored");
        image
    }

    fn changed(change: impl Fn(&mut Vec<u8>)) -> Result<Vec<u8>, KernelError> {
        let mut image = bzimage();
        change(&mut image);
        vmlinux_of(&image)
    }

    #[test]
    fn a_bzimage_gives_its_elf_and_each_damage_its_own_error() {
        let vmlinux = changed(|_| ()).unwrap();
        assert_eq!((vmlinux.len(), &vmlinux[..4]), (144, b"\x7fELF".as_slice()));
        assert_eq!(changed(|image| image[0x202] = b'h'), Err(KernelError::NotBzImage));
        assert_eq!(changed(|image| image[0x206] = 7), Err(KernelError::OldProtocol { found: 0x207 }));
        assert_eq!(changed(|image| image.truncate(1060)), Err(KernelError::Truncated));
        assert_eq!(changed(|image| image[0x24f] = 0xff), Err(KernelError::Truncated));
        assert_eq!(changed(|image| image[1040] = 0x1f), Err(KernelError::NotZstd { found: "1fb52ffd".into() }));
        let end = bzimage().len() - b"what follows is ignored".len();
        assert_eq!(changed(|image| image[end - 4] += 1), Err(KernelError::Size { expected: 145, found: 144 }));
        assert_eq!(changed(|image| image[end - 4] -= 1), Err(KernelError::Size { expected: 143, found: 144 }));
        assert_eq!(changed(|image| image[end - 1] = 0x7f), Err(KernelError::Size { expected: 0x7f00_0090, found: 0 }));
    }

    #[test]
    fn a_kernel_without_a_pvh_note_is_refused() {
        let mut elf = vmlinux_of(&bzimage()).unwrap();
        assert_eq!(vmlinux_of(&wrap(&elf)).map(|found| found.len()), Ok(144));
        elf[128] = 17;
        assert_eq!(vmlinux_of(&wrap(&elf)), Err(KernelError::NoPvh));
        assert_eq!(vmlinux_of(&wrap(b"not a kernel")), Err(KernelError::Elf(ElfError::NotElf)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(data: Vec<u8>, at in 0usize..1200, value: u8) {
            fuzz(&data);
            let mut image = bzimage();
            if let Some(byte) = image.get_mut(at) { *byte = value; }
            fuzz(&image);
        }
    }
}
