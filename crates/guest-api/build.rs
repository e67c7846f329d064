//! Generates the messages and the ttrpc service from `proto/agent.proto`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize { async_all: true, gen_mod: false, ..Default::default() })
        .run()?;
    // The generated files start with inner attributes, which `include!` refuses but a module file may have.
    std::fs::write(out.join("modules.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")?;
    Ok(())
}
