//! Compiles the `.proto` files in-process: no protoc on the machine.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=goldleaf");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files([
            "goldleaf/v1/common.proto",
            "goldleaf/v1/role.proto",
            "goldleaf/v1/export.proto",
            "goldleaf/v1/group.proto",
            "goldleaf/v1/repair.proto",
            "goldleaf/v1/volume.proto",
            "goldleaf/v1/pool.proto",
            "goldleaf/v1/channel.proto",
            "goldleaf/v1/image.proto",
            "goldleaf/v1/node.proto",
            "goldleaf/v1/doctor.proto",
            "goldleaf/v1/store.proto",
            "goldleaf/agent/v1/agent.proto",
        ])?;
    // As the compiler has it: our own options of methods are kept.
    std::fs::write(
        out.join("goldleaf.fds"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
