//! placeholder until the TDX test stands

fn main() {}
