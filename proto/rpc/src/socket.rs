//! A part's unix socket: whose it is, who may use it, and when it goes.
//!
//! Taken by a part when it starts. Invariant: a socket that somebody serves is never taken away, neither at
//! start nor at stop. It is made under another name, closed to all but root, and only then put in
//! its place, so nobody can reach it with wider rights. A crash leaves the socket; the next start
//! finds that nobody answers on it and replaces it.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// Longest wait for somebody on an old socket to take a connection.
const ANSWER: Duration = Duration::from_secs(2);

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process serves there.
    #[error(
        "another process serves on {}: stop it, or give this one a socket of its own",
        .0.display()
    )]
    Taken(PathBuf),
    /// Something else has that path.
    #[error("{} exists and is no socket: remove it, or choose another path", .0.display())]
    NoSocket(PathBuf),
    /// The file system refused.
    #[error("cannot {doing} {}", .path.display())]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket in its place. Dropping it removes the file, if it is still this one's.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Device and inode: another socket at this path has others.
    identity: (u64, u64),
}

impl Socket {
    /// Takes `path` and listens there, for root alone. Makes the folder where it lacks.
    ///
    /// # Errors
    ///
    /// [`SocketError::Taken`] while somebody answers there, [`SocketError::NoSocket`] if another
    /// kind of file is there, [`SocketError::Refused`] if the file system does not let us.
    pub async fn take(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let refused = |doing, source| SocketError::Refused {
            doing,
            path: path.into(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| refused("make the folder of", e))?;
        }
        vacant(path).await?;
        let making = making(path);
        match std::fs::remove_file(&making) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(refused("clear the way for", error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&making).map_err(|e| refused("serve on", e))?;
        let place = || {
            std::fs::set_permissions(&making, std::fs::Permissions::from_mode(0o600))?;
            let made = std::fs::symlink_metadata(&making)?;
            std::fs::rename(&making, path)?;
            Ok((made.dev(), made.ino()))
        };
        match place() {
            Ok(identity) => Ok((
                Self {
                    path: path.into(),
                    identity,
                },
                listener,
            )),
            Err(error) => {
                let _ = std::fs::remove_file(&making);
                Err(refused("serve on", error))
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket not removed");
        }
    }
}

/// Its name while it is made. Kubelet passes over what begins with a dot.
fn making(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Whether nobody serves at `path`. Only a refused connection proves an old socket dead.
async fn vacant(path: &Path) -> Result<(), SocketError> {
    let refused = |source| SocketError::Refused {
        doing: "look at",
        path: path.into(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.into()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
    }
    match tokio::time::timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() != ErrorKind::WouldBlock => Err(refused(error)),
        Ok(_) | Err(_) => Err(SocketError::Taken(path.into())), // answered, or too busy to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_roots_alone_and_taken_from_nobody_who_serves_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (socket, listener) = Socket::take(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::take(&path).await.unwrap_err();
        assert!(matches!(second, SocketError::Taken(_)), "{second}");
        assert!(path.exists(), "the refused one took it away");

        drop(listener); // as a crash leaves it: the file is there, nobody answers
        let (next, _listener) = Socket::take(&path).await.unwrap();
        drop(socket);
        assert!(path.exists(), "the former owner took the next one's away");
        drop(next);
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_socket_that_is_being_made_is_one_that_kubelet_passes_over() {
        let path = making(Path::new("/var/lib/kubelet/plugins_registry/x-reg.sock"));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(".x-reg.sock."), "{name}");
    }
}
