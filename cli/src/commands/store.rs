//! `goldleaf store`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use tonic::Streaming;

use super::Call;
use crate::args::Store;
use crate::failure::Failure;

pub async fn run(call: &Call, command: Store) -> Result<(), Failure> {
    match command {
        Store::Backup { file } => backup(call, &file).await,
    }
}

/// Writes beside the file and renames it when it is whole and on the disk.
async fn backup(call: &Call, path: &Path) -> Result<(), Failure> {
    let unwritable = |source| Failure::Unwritable {
        path: path.display().to_string(),
        source,
    };
    if path.exists() {
        return Err(unwritable(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut store = call.client.store();
    let chunks = call
        .answer(store.backup(api::BackupStoreRequest {}))
        .await?;
    let written = match write(call, chunks, &part).await {
        Ok(written) => written.and_then(|bytes| in_place(&part, path).map(|()| bytes)),
        Err(failure) => {
            let _ = std::fs::remove_file(&part); // a part of a backup is none
            return Err(failure);
        }
    };
    let bytes = written.map_err(|source| {
        let _ = std::fs::remove_file(&part);
        unwritable(source)
    })?;
    eprintln!("{}: {bytes} bytes", path.display());
    Ok(())
}

/// Writes what comes; the outer failure is the control plane's, the inner the disk's.
async fn write(
    call: &Call,
    mut chunks: Streaming<api::BackupStoreChunk>,
    part: &Path,
) -> Result<std::io::Result<u64>, Failure> {
    // Addresses of images can carry secrets.
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(part);
    let mut file = match file {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let mut bytes = 0;
    while let Some(chunk) = chunks.message().await.map_err(|e| call.client.refused(e))? {
        if let Err(error) = file.write_all(&chunk.data) {
            return Ok(Err(error));
        }
        bytes += chunk.data.len() as u64;
    }
    Ok(file.sync_all().map(|()| bytes))
}

fn in_place(part: &Path, path: &Path) -> std::io::Result<()> {
    // Never over a file that came meanwhile.
    std::fs::hard_link(part, path)?;
    std::fs::remove_file(part)?;
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
