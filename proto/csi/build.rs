//! Compiles `csi.proto` in-process: no protoc on the machine.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=csi.proto");
    println!("cargo:rerun-if-changed=pluginregistration.proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(["csi.proto"])?;
    // Encoded by the compiler itself: prost's own type would lose the custom options.
    std::fs::write(out.join("csi.fds"), compiler.encode_file_descriptor_set())?;
    // A plugin serves some calls; the others answer UNIMPLEMENTED by themselves.
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .compile_fds(compiler.file_descriptor_set())?;
    // Kubelet's own: a file apart, so that csi.proto stays what the specification publishes.
    let mut kubelet = protox::Compiler::new(["."])?;
    kubelet
        .include_source_info(true)
        .open_files(["pluginregistration.proto"])?;
    std::fs::write(
        out.join("kubelet.fds"),
        kubelet.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure().compile_fds(kubelet.file_descriptor_set())?;
    Ok(())
}
