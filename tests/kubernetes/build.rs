//! Generates the messages of `proto/cri.proto`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/cri.proto");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/cri.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize { gen_mod: false, ..Default::default() })
        .run()?;
    // The generated file starts with inner attributes, which `include!` refuses but a module file may have.
    std::fs::write(out.join("modules.rs"), "pub mod cri;\n")?;
    Ok(())
}
