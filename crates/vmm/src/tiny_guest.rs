//! An initrd whose init says one word and powers off: static x86-64 machine code, no libc.

/// What the init writes to its console.
pub(crate) const WORD: &str = "belljar-guest-runs";

/// Where the program is loaded: any page above `mmap_min_addr`.
const BASE: u64 = 0x40_0000;
/// ELF header and one program header (System V ABI, chapters 4 and 5).
const HEADERS: u64 = 64 + 56;

/// The archive: newc cpio (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`) of `/dev/console` and `/init`.
pub(crate) fn initrd() -> Vec<u8> {
    let mut archive = Vec::new();
    entry(&mut archive, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut archive, "init", 0o100_755, (0, 0), &init());
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    let ino = archive.len();
    let head = format!(
        "070701{ino:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name}\0",
        0,
        0,
        1,
        0,
        data.len(),
        0,
        0,
        device.0,
        device.1,
        name.len() + 1,
        0
    );
    archive.extend_from_slice(head.as_bytes());
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

/// `write(1, WORD "\n", …); reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0); for (;;);`
fn init() -> Vec<u8> {
    let text = format!("{WORD}\n");
    let mut code = Vec::new();
    code.extend_from_slice(&[0xb8, 1, 0, 0, 0]); // mov eax, 1 (write)
    code.extend_from_slice(&[0xbf, 1, 0, 0, 0]); // mov edi, 1
    code.extend_from_slice(&[0x48, 0x8d, 0x35, 36, 0, 0, 0]); // lea rsi, [rip + 36] (the text, behind the code)
    code.push(0xba); // mov edx, length
    code.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05]); // syscall
    code.extend_from_slice(&[0xb8, 169, 0, 0, 0]); // mov eax, 169 (reboot)
    code.extend_from_slice(&[0xbf, 0xad, 0xde, 0xe1, 0xfe]); // mov edi, 0xfee1dead
    code.extend_from_slice(&[0xbe, 0x69, 0x19, 0x12, 0x28]); // mov esi, 672274793
    code.extend_from_slice(&[0xba, 0xdc, 0xfe, 0x21, 0x43]); // mov edx, 0x4321fedc
    code.extend_from_slice(&[0x45, 0x31, 0xd2]); // xor r10d, r10d
    code.extend_from_slice(&[0x0f, 0x05]); // syscall
    code.extend_from_slice(&[0xeb, 0xfe, 0x90, 0x90]); // jmp self
    code.extend_from_slice(text.as_bytes());

    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, version 1
    for field in [BASE + HEADERS, 64, 0] {
        elf.extend_from_slice(&u64::to_le_bytes(field)); // entry, program headers, section headers
    }
    elf.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // flags, sizes and counts
    elf.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    for field in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&u64::to_le_bytes(field)); // offset, addresses, sizes, alignment
    }
    elf.extend_from_slice(&code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_stands_where_the_code_looks() {
        let elf = init();
        let text = usize::try_from(HEADERS).unwrap() + 17 + 36;
        assert_eq!(&elf[text..], format!("{WORD}\n").as_bytes());
    }
}
