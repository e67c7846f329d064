//! MRTD against an independent computation (`tdx.py`, from Intel's documents alone).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;

use belljar_measure::tdx::{Order, TdxError, mrtd_of};
use serde_json::Value;

fn made() -> (Vec<u8>, Value) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tdx.py");
    let output = Command::new("python3").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    (hex::decode(made["image"].as_str().unwrap()).unwrap(), made)
}

#[test]
fn mrtd_is_what_an_independent_computation_gives() {
    let (image, made) = made();
    for (order, name) in [(Order::PageByPage, "page_by_page"), (Order::SectionBySection, "section_by_section")] {
        assert_eq!(hex::encode(mrtd_of(&image, order).unwrap()), made[name].as_str().unwrap(), "{name}");
    }
    assert_ne!(made["page_by_page"], made["section_by_section"]);
}

#[test]
fn only_what_is_measured_changes_it() {
    let (image, _) = made();
    let mrtd = |image: &[u8]| mrtd_of(image, Order::PageByPage).unwrap();
    let changed = |at: usize| {
        let mut other = image.clone();
        other[at] ^= 1;
        mrtd(&other) != mrtd(&image)
    };
    // The boot volume, its last byte, the part of the configuration volume that is measured elsewhere, its rest.
    assert_eq!((changed(0), changed(8191), changed(8192 + 299), changed(8192 + 300)), (true, true, true, false));
    // An address, and the attributes of a section.
    let descriptor = 4 * 4096 + 16;
    assert_eq!((changed(descriptor + 10), changed(descriptor + 28)), (true, true));
}

#[test]
fn a_malformed_descriptor_is_refused() {
    let (image, _) = made();
    let refused = |at: usize, value: u8| {
        let mut other = image.clone();
        other[at] = value;
        match mrtd_of(&other, Order::PageByPage) {
            Err(TdxError::Firmware(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let (descriptor, section) = (4 * 4096, 4 * 4096 + 16);
    assert_eq!(refused(descriptor, b'X'), "its tdx metadata is malformed");
    assert_eq!(refused(descriptor + 8, 2), "its tdx metadata is malformed");
    assert_eq!(refused(descriptor + 12, 6), "its tdx metadata is malformed");
    assert_eq!(refused(section + 3, 1), "a section of its tdx metadata lies outside of it");
    let pages = "its tdx metadata has a section that is not whole pages, or longer than its memory";
    assert_eq!(refused(section + 8, 1), pages);
    assert_eq!(refused(section + 17, 0), pages);
    assert_eq!(refused(section + 20, 1), "its sections are too long");
    assert_eq!(refused(image.len() - 40, 0), "it has no table of GUIDs");
    let error = mrtd_of(&[0; 8192], Order::PageByPage).unwrap_err();
    assert!(error.to_string().starts_with("firmware is not usable for tdx: it has no table of GUIDs"));
}
