//! Images and their copies in tables.

use goldleaf_proto::v1 as api;

use super::{Printable, bytes, phase, short, state};

/// How many nodes hold it; of how many that are to, while that is more.
fn nodes(copies: &[api::ImageCopy]) -> String {
    let ready = |copy: &&api::ImageCopy| copy.phase() == api::Phase::Ready;
    let ready = copies.iter().filter(ready).count();
    if ready == copies.len() {
        ready.to_string()
    } else {
        format!("{ready} of {}", copies.len())
    }
}

impl Printable for api::Image {
    const MESSAGE: &'static str = "goldleaf.v1.Image";
    const COLUMNS: &'static [&'static str] = &["NAME", "PHASE", "SIZE", "DIGEST", "NODES", "ID"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            if self.size_bytes == 0 {
                "-".into()
            } else {
                bytes(self.size_bytes)
            },
            short(&self.digest),
            nodes(&self.copies),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::ImageCopy {
    const MESSAGE: &'static str = "goldleaf.v1.ImageCopy";
    const COLUMNS: &'static [&'static str] = &["NODE", "PHASE", "DONE", "MESSAGE"];

    fn row(&self) -> Vec<String> {
        let done = match self.progress {
            Some(p) if p.total_bytes > 0 => {
                format!("{} of {}", bytes(p.done_bytes), bytes(p.total_bytes))
            }
            Some(p) => bytes(p.done_bytes),
            None => "-".into(),
        };
        let message = if self.message.is_empty() {
            "-".into()
        } else {
            self.message.clone()
        };
        vec![self.node.clone(), phase(self.phase), done, message]
    }

    fn name(&self) -> &str {
        &self.node
    }
}

impl Printable for api::Channel {
    const MESSAGE: &'static str = "goldleaf.v1.Channel";
    const COLUMNS: &'static [&'static str] = &["NAME", "DIGEST", "MOVED", "ID"];

    fn row(&self) -> Vec<String> {
        let moved = self
            .moved
            .map_or_else(|| "-".into(), |moved| moved.to_string());
        vec![
            self.name.clone(),
            short(&self.digest),
            moved,
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::ExportedFile {
    const MESSAGE: &'static str = "goldleaf.v1.ExportedFile";
    const COLUMNS: &'static [&'static str] = &["FILE", "SIZE", "STORED", "SHA256", "DIGEST"];

    fn row(&self) -> Vec<String> {
        vec![
            self.path.clone(),
            bytes(self.file_size_bytes),
            bytes(self.stored_bytes),
            self.file_sha256.clone(),
            short(&self.digest),
        ]
    }

    fn name(&self) -> &str {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_its_way_shows_how_far_and_the_image_how_many_are_there() {
        let copy = |phase: api::Phase, progress| api::ImageCopy {
            node: "node-1".into(),
            phase: phase.into(),
            progress,
            message: String::new(),
        };
        let half = api::Progress {
            done_bytes: 512,
            total_bytes: 1024,
        };
        let coming = copy(api::Phase::Creating, Some(half));
        assert_eq!(
            coming.row(),
            ["node-1", "creating", "512 B of 1.0 KiB", "-"]
        );
        let there = copy(api::Phase::Ready, None);
        assert_eq!(nodes(&[there.clone(), coming]), "1 of 2");
        assert_eq!(nodes(&[there]), "1");
    }
}
