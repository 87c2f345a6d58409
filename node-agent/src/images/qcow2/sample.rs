//! qcow2 files for tests: a tiny writer, from the format's own description.

/// One cluster of content.
#[derive(Clone, Debug)]
pub(in crate::images) enum Cluster {
    Hole,
    Zero,
    Data(Vec<u8>),
    Compressed(Vec<u8>),
}

/// A qcow2 image to be.
#[derive(Clone, Debug)]
pub(in crate::images) struct Sample {
    pub(in crate::images) version: u32,
    pub(in crate::images) cluster_bits: u32,
    pub(in crate::images) size: u64,
    pub(in crate::images) clusters: Vec<Cluster>,
}

/// Where things are in a written sample, in bytes.
#[derive(Clone, Debug, Default)]
pub(in crate::images) struct Layout {
    pub(in crate::images) l1: usize,
    pub(in crate::images) l2: usize,
    pub(in crate::images) data: usize,
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Sample {
    /// Data, compressed data, a hole and zeroes, in version 3.
    pub(in crate::images) fn mixed() -> Self {
        let cluster = 4096;
        let words = |seed: u8| {
            (0..cluster)
                .map(|i| u8::try_from(i / 7 % 256).unwrap() ^ seed)
                .collect::<Vec<u8>>()
        };
        Self {
            version: 3,
            cluster_bits: 12,
            size: 5 * 4096 + 512,
            clusters: vec![
                Cluster::Data(words(1)),
                Cluster::Hole,
                Cluster::Compressed(words(2)),
                Cluster::Zero,
                Cluster::Compressed(words(3)),
                Cluster::Data(words(4)),
            ],
        }
    }

    fn cluster(&self) -> usize {
        1 << self.cluster_bits
    }

    /// What a disk made of it reads.
    pub(in crate::images) fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for cluster in &self.clusters {
            match cluster {
                Cluster::Hole | Cluster::Zero => content.resize(content.len() + self.cluster(), 0),
                Cluster::Data(bytes) | Cluster::Compressed(bytes) => content.extend(bytes),
            }
        }
        content.resize(usize::try_from(self.size).unwrap(), 0);
        content
    }

    /// The file, and where things are in it.
    pub(in crate::images) fn file(&self) -> (Vec<u8>, Layout) {
        let cluster = self.cluster();
        let per_table = cluster / 8;
        let tables = self.clusters.len().div_ceil(per_table);
        let l1_clusters = (tables * 8).div_ceil(cluster);
        let l1 = 3 * cluster;
        let l2 = l1 + l1_clusters * cluster;
        let data = l2 + tables * cluster;
        let mut file = Vec::new();
        put(&mut file, 0, &self.header(tables, l1));
        // A refcount table of one cluster that points to one block of counts.
        put(&mut file, cluster, &(2 * cluster as u64).to_be_bytes());
        put(&mut file, data - 1, &[0]);
        for table in 0..tables {
            let entry = (l2 + table * cluster) as u64 | 1 << 63;
            put(&mut file, l1 + table * 8, &entry.to_be_bytes());
        }
        let entries = self.data(&mut file);
        for (index, entry) in entries.into_iter().enumerate() {
            put(&mut file, l2 + index * 8, &entry.to_be_bytes());
        }
        (file, Layout { l1, l2, data })
    }

    /// Writes plain clusters, then compressed ones packed, and answers the entries.
    fn data(&self, file: &mut Vec<u8>) -> Vec<u64> {
        let cluster = self.cluster();
        let mut entries = vec![0; self.clusters.len()];
        for (entry, content) in entries.iter_mut().zip(&self.clusters) {
            match content {
                Cluster::Hole | Cluster::Compressed(_) => {}
                Cluster::Zero => *entry = 1,
                Cluster::Data(bytes) => {
                    *entry = file.len() as u64 | 1 << 63;
                    let at = file.len();
                    put(file, at, bytes);
                }
            }
        }
        for (entry, content) in entries.iter_mut().zip(&self.clusters) {
            if let Cluster::Compressed(bytes) = content {
                let packed = miniz_oxide::deflate::compress_to_vec(bytes, 6);
                assert!(packed.len() < cluster, "it does not compress");
                let offset_bits = 62 - (self.cluster_bits - 8);
                let at = file.len();
                let more_sectors = (at + packed.len() - 1) / 512 - at / 512;
                *entry = 1 << 62 | (more_sectors as u64) << offset_bits | at as u64;
                put(file, at, &packed);
            }
        }
        let whole = file.len().next_multiple_of(512);
        file.resize(whole, 0);
        entries
    }

    fn header(&self, l1_entries: usize, l1: usize) -> Vec<u8> {
        let cluster = self.cluster();
        let mut header = Vec::new();
        put(&mut header, 0, b"QFI\xfb");
        put(&mut header, 4, &self.version.to_be_bytes());
        put(&mut header, 20, &self.cluster_bits.to_be_bytes());
        put(&mut header, 24, &self.size.to_be_bytes());
        put(
            &mut header,
            36,
            &u32::try_from(l1_entries).unwrap().to_be_bytes(),
        );
        put(&mut header, 40, &(l1 as u64).to_be_bytes());
        put(&mut header, 48, &(cluster as u64).to_be_bytes());
        put(&mut header, 56, &1_u32.to_be_bytes());
        put(&mut header, 64, &[0; 8]);
        if self.version == 3 {
            put(&mut header, 96, &4_u32.to_be_bytes());
            put(&mut header, 100, &104_u32.to_be_bytes());
        }
        header
    }
}
