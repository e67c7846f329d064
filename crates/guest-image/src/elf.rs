//! The little of ELF64 that the image needs: is a program static, does a kernel carry a PVH entry, what does a module depend on.
//!
//! Source: System V ABI, AMD64 supplement, and the generic ABI chapters "Object Files" and "Program Loading"; the PVH note is
//! `XEN_ELFNOTE_PHYS32_ENTRY` of the PVH boot protocol. Only little-endian x86-64 files are recognised.

/// Why bytes are not the ELF file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The magic, the class, the byte order or the machine is another one.
    #[error("not an ELF file for x86-64")]
    NotElf,
    /// A table or a section lies outside the file.
    #[error("the ELF {what} lies outside of the file; it is truncated or damaged")]
    Truncated {
        /// What was looked for.
        what: &'static str,
    },
    /// The file is an object or a core, not a program.
    #[error("the ELF file is not a program (type {found}, expected 2 or 3)")]
    NotProgram {
        /// `e_type` of the header.
        found: u16,
    },
    /// The program asks for a dynamic loader.
    #[error(
        "the program is linked dynamically (it names an interpreter); build it with `-C target-feature=+crt-static`"
    )]
    Interpreter,
    /// The program needs shared libraries.
    #[error("the program needs shared libraries; build it with `-C target-feature=+crt-static`")]
    Libraries,
}

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const DT_NEEDED: u64 = 1;
/// `XEN_ELFNOTE_PHYS32_ENTRY`
const PVH_ENTRY: u32 = 18;

/// A view into the bytes of an ELF64 file.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    kind: u16,
}

struct Segment {
    kind: u32,
    offset: u64,
    size: u64,
}

impl<'a> Elf<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, ElfError> {
        // magic, 64-bit, little-endian, version 1
        if bytes.get(..7) != Some(b"\x7fELF\x02\x01\x01") {
            return Err(ElfError::NotElf);
        }
        let kind = u16_at(bytes, 16, "header")?;
        if u16_at(bytes, 18, "header")? != 62 {
            return Err(ElfError::NotElf);
        }
        bytes.get(..64).ok_or(ElfError::Truncated { what: "header" })?;
        Ok(Self { bytes, kind })
    }

    /// A program without a loader and without libraries: the only kind that can be PID 1 of a guest that has no libc.
    pub(crate) fn check_static_program(&self) -> Result<(), ElfError> {
        if self.kind != 2 && self.kind != 3 {
            return Err(ElfError::NotProgram { found: self.kind });
        }
        for segment in self.segments()? {
            match segment.kind {
                PT_INTERP => return Err(ElfError::Interpreter),
                PT_DYNAMIC => {
                    let table = self.slice(segment.offset, segment.size, "dynamic table")?;
                    if table.chunks_exact(16).any(|entry| u64_at(entry, 0, "") == Ok(DT_NEEDED)) {
                        return Err(ElfError::Libraries);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The 32-bit entry point of the PVH note, when there is one.
    pub(crate) fn pvh_entry(&self) -> Result<Option<u32>, ElfError> {
        for segment in self.segments()?.into_iter().filter(|segment| segment.kind == PT_NOTE) {
            let mut notes = self.slice(segment.offset, segment.size, "note")?;
            while notes.len() >= 12 {
                let name_size = u32_at(notes, 0, "note")?;
                let value_size = u32_at(notes, 4, "note")?;
                let kind = u32_at(notes, 8, "note")?;
                let name = notes.get(12..).and_then(|rest| rest.get(..usize_of(name_size)));
                let value_at = 12 + align4(name_size);
                let value = notes.get(value_at..).and_then(|rest| rest.get(..usize_of(value_size)));
                let (Some(name), Some(value)) = (name, value) else { return Err(ElfError::Truncated { what: "note" }) };
                if name == b"Xen\0" && kind == PVH_ENTRY {
                    return Ok(Some(u32_at(value, 0, "PVH note")?));
                }
                notes = notes.get(value_at + align4(value_size)..).unwrap_or_default();
            }
        }
        Ok(None)
    }

    /// The contents of the first section that has this name.
    pub(crate) fn section(&self, name: &str) -> Result<Option<&'a [u8]>, ElfError> {
        let table_at = u64_at(self.bytes, 40, "header")?;
        let entry_size = u64::from(u16_at(self.bytes, 58, "header")?);
        let count = u64::from(u16_at(self.bytes, 60, "header")?);
        let names_index = u64::from(u16_at(self.bytes, 62, "header")?);
        if count == 0 {
            return Ok(None);
        }
        if entry_size < 64 {
            return Err(ElfError::Truncated { what: "section table" });
        }
        let header = |index: u64| {
            let at = index.checked_mul(entry_size).and_then(|within| within.checked_add(table_at));
            self.slice(at.unwrap_or(u64::MAX), 64, "section table")
        };
        let names_header = header(names_index)?;
        let names = self.slice(
            u64_at(names_header, 24, "section table")?,
            u64_at(names_header, 32, "section table")?,
            "section names",
        )?;
        for index in 0..count {
            let section = header(index)?;
            let name_at = usize_of(u32_at(section, 0, "section table")?);
            let found = names.get(name_at..).and_then(|rest| rest.split(|byte| *byte == 0).next());
            // type 8 (SHT_NOBITS) has no bytes in the file
            if found == Some(name.as_bytes()) && u32_at(section, 4, "section table")? != 8 {
                let (at, size) = (u64_at(section, 24, "section table")?, u64_at(section, 32, "section table")?);
                return self.slice(at, size, "section").map(Some);
            }
        }
        Ok(None)
    }

    /// Where the headers of these sections start in the file, and their flags.
    fn headers(&self, names: &[&str]) -> Result<Vec<(usize, u64)>, ElfError> {
        let table_at = u64_at(self.bytes, 40, "header")?;
        let entry_size = u64::from(u16_at(self.bytes, 58, "header")?);
        let count = u64::from(u16_at(self.bytes, 60, "header")?);
        let names_index = u64::from(u16_at(self.bytes, 62, "header")?);
        if count > 0 && entry_size < 64 {
            return Err(ElfError::Truncated { what: "section table" });
        }
        let at = |index: u64| {
            let at = index.checked_mul(entry_size).and_then(|within| within.checked_add(table_at));
            at.ok_or(ElfError::Truncated { what: "section table" })
        };
        let names_header = self.slice(at(names_index)?, 64, "section table")?;
        let (names_at, names_size) =
            (u64_at(names_header, 24, "section table")?, u64_at(names_header, 32, "section table")?);
        let table = self.slice(names_at, names_size, "section names")?;
        let mut found = Vec::new();
        for index in 0..count {
            let section = self.slice(at(index)?, 64, "section table")?;
            let name_at = usize_of(u32_at(section, 0, "section table")?);
            let name = table.get(name_at..).and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default();
            if names.iter().any(|wanted| wanted.as_bytes() == name) {
                let header_at =
                    usize::try_from(at(index)?).map_err(|_| ElfError::Truncated { what: "section table" })?;
                found.push((header_at, u64_at(section, 8, "section table")?));
            }
        }
        Ok(found)
    }

    fn segments(&self) -> Result<Vec<Segment>, ElfError> {
        let table_at = u64_at(self.bytes, 32, "header")?;
        let entry_size = u64::from(u16_at(self.bytes, 54, "header")?);
        let count = u64::from(u16_at(self.bytes, 56, "header")?);
        if count > 0 && entry_size < 56 {
            return Err(ElfError::Truncated { what: "program table" });
        }
        (0..count)
            .map(|index| {
                let at = index.checked_mul(entry_size).and_then(|within| within.checked_add(table_at));
                let entry = self.slice(at.unwrap_or(u64::MAX), 56, "program table")?;
                Ok(Segment {
                    kind: u32_at(entry, 0, "program table")?,
                    offset: u64_at(entry, 8, "program table")?,
                    size: u64_at(entry, 32, "program table")?,
                })
            })
            .collect()
    }

    fn slice(&self, at: u64, size: u64, what: &'static str) -> Result<&'a [u8], ElfError> {
        let start = usize::try_from(at).ok();
        let end = at.checked_add(size).and_then(|end| usize::try_from(end).ok());
        start.zip(end).and_then(|(start, end)| self.bytes.get(start..end)).ok_or(ElfError::Truncated { what })
    }
}

/// Makes a loader pass over these sections of an object file: they lose their names, and the flag SHF_ALLOC. Nothing moves, and
/// nothing else changes. Returns how many there were.
pub(crate) fn hide_sections(object: &mut [u8], names: &[&str]) -> Result<usize, ElfError> {
    const SHF_ALLOC: u64 = 2;
    let headers = Elf::new(object)?.headers(names)?;
    for (at, flags) in &headers {
        let header = object.get_mut(*at..at + 16).ok_or(ElfError::Truncated { what: "section table" })?;
        if let Some(name) = header.get_mut(..4) {
            name.fill(0);
        }
        if let Some(field) = header.get_mut(8..16) {
            field.copy_from_slice(&(flags & !SHF_ALLOC).to_le_bytes());
        }
    }
    Ok(headers.len())
}

/// Everything that reads an ELF file here, on any bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = hide_sections(&mut data.to_vec(), &["", ".BTF"]);
    if let Ok(elf) = Elf::new(data) {
        let _ = elf.check_static_program();
        let _ = elf.pvh_entry();
        let _ = elf.section(".modinfo");
    }
}

fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX / 4)
}

fn align4(value: u32) -> usize {
    usize_of(value).saturating_add(3) & !3
}

fn array_at<const N: usize>(bytes: &[u8], at: usize, what: &'static str) -> Result<[u8; N], ElfError> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(ElfError::Truncated { what })
}

fn u16_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u16, ElfError> {
    array_at(bytes, at, what).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u32, ElfError> {
    array_at(bytes, at, what).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u64, ElfError> {
    array_at(bytes, at, what).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one segment of the given type over the given bytes.
    fn program(kind: u16, segment: u32, contents: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64 + 56, 0);
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18] = 62;
        file[32] = 64; // program table
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&segment.to_le_bytes());
        file[72..80].copy_from_slice(&120u64.to_le_bytes());
        file[96..104].copy_from_slice(&(contents.len() as u64).to_le_bytes());
        file.extend_from_slice(contents);
        file
    }

    fn check(file: &[u8]) -> Result<(), ElfError> {
        Elf::new(file)?.check_static_program()
    }

    #[test]
    fn a_static_program_passes_and_its_dynamic_twins_do_not() {
        let flags = [0x1e, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(check(&program(3, PT_DYNAMIC, &flags)), Ok(()));
        assert_eq!(check(&program(3, PT_INTERP, &flags)), Err(ElfError::Interpreter));
        let mut needed = flags;
        needed[0] = 1;
        assert_eq!(check(&program(3, PT_DYNAMIC, &needed)), Err(ElfError::Libraries));
        assert_eq!(check(&program(1, PT_DYNAMIC, &flags)), Err(ElfError::NotProgram { found: 1 }));
        assert_eq!(check(b"#!/bin/sh\n"), Err(ElfError::NotElf));
        let mut other_machine = program(3, PT_DYNAMIC, &flags);
        other_machine[18] = 183;
        assert_eq!(check(&other_machine), Err(ElfError::NotElf));
        let whole = program(3, PT_DYNAMIC, &flags);
        assert_eq!(check(&whole[..whole.len() - 1]), Err(ElfError::Truncated { what: "dynamic table" }));
    }

    #[test]
    fn the_pvh_note_is_found_by_owner_and_type() {
        let note = |name: &[u8; 4], kind: u32| {
            let mut note = Vec::new();
            for word in [4u32, 8, kind] {
                note.extend_from_slice(&word.to_le_bytes());
            }
            note.extend_from_slice(name);
            note.extend_from_slice(&0x0100_0370u64.to_le_bytes());
            note
        };
        let entry = |note: Vec<u8>| Elf::new(&program(2, PT_NOTE, &note)).unwrap().pvh_entry();
        assert_eq!(entry(note(b"Xen\0", PVH_ENTRY)), Ok(Some(0x0100_0370)));
        assert_eq!(entry(note(b"GNU\0", PVH_ENTRY)), Ok(None));
        assert_eq!(entry(note(b"Xen\0", 17)), Ok(None));
        assert_eq!(entry([note(b"Xen\0", 17), note(b"Xen\0", PVH_ENTRY)].concat()), Ok(Some(0x0100_0370)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(tail: Vec<u8>, cut in 0usize..200, at in 0usize..200, value: u8) {
            let mut file = program(3, PT_NOTE, &tail);
            if let Some(byte) = file.get_mut(at) { *byte = value; }
            file.truncate(file.len().saturating_sub(cut));
            fuzz(&file);
            fuzz(&tail);
        }
    }
}
