//! A qcow2 file's header: pure, total, and believed in nothing that it cannot show.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Header" and "Header extensions".

use goldleaf_types::Bytes;

use crate::images::import::MAX_SIZE;

/// Bytes of the header that are looked at.
pub(super) const HEADER_MAX: usize = 112;

const V2_LEN: usize = 72;
const V3_LEN: usize = 104;

/// Largest first-level table, in bytes. QEMU's own limit.
const L1_MAX: u64 = 32 << 20;
/// Largest refcount table, in bytes. QEMU's own limit.
const REFCOUNT_TABLE_MAX: u64 = 8 << 20;

const CHECK: &str = "repair it with `qemu-img check -r all`";
const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";

/// Why a qcow2 file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadQcow2 {
    /// It has fewer bytes than a header.
    #[error("the file has {len} bytes, fewer than a qcow2 header: copy it again")]
    Short { len: u64 },
    /// It is something else.
    #[error("the file does not begin as qcow2 does")]
    NotQcow2,
    /// A version nobody writes any more, or not yet.
    #[error("it is qcow2 version {0}, and 2 and 3 can be read: {CONVERT}")]
    Version(u32),
    /// It is only what changed over another image.
    #[error(
        "it has a backing file and so is not whole: merge them with `qemu-img convert -O qcow2`"
    )]
    Backing,
    /// Its content cannot be read without a key.
    #[error("it is encrypted: decrypt it with `qemu-img convert`")]
    Encrypted,
    /// Its content is elsewhere.
    #[error("its data is in another file: {CONVERT}")]
    DataFile,
    /// It was not closed, or was found to be damaged.
    #[error("it is marked as {0}: {CHECK}")]
    Unclean(&'static str),
    /// zstd, and what may come.
    #[error("its clusters are compressed with {0}, and only zlib can be read: {CONVERT}")]
    Compression(&'static str),
    /// Something this cannot read.
    #[error("it needs {0}, which cannot be read here: {CONVERT}")]
    Feature(String),
    /// A field has a value that it cannot have.
    #[error("its header says {field} {value}, {problem}: the file is damaged")]
    Field {
        field: &'static str,
        value: u64,
        problem: &'static str,
    },
    /// The content has a size that no image can have.
    #[error("its content has {0} bytes, and an image has a multiple of 512 up to {max}: \
             change it with `qemu-img resize`", max = Bytes(MAX_SIZE))]
    Size(u64),
    /// It points past its end.
    #[error("{what} ends at byte {end} and the file has {len}: it was cut off, copy it again")]
    Beyond { what: String, end: u64, len: u64 },
    /// A table's entry has a value that it cannot have.
    #[error("entry {index} of {table} is {value:#x}, {problem}: {CHECK}")]
    Entry {
        table: String,
        index: u64,
        value: u64,
        problem: &'static str,
    },
}

/// What is needed of a header that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Size of the content, in bytes.
    pub(super) size: u64,
    /// Where the first-level table is.
    pub(super) l1_offset: u64,
    /// How many of its entries the content needs.
    pub(super) l1_used: u64,
}

impl Header {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of a second-level table, which is one cluster.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Reads the header of a file of `len` bytes from its first [`HEADER_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// [`BadQcow2`] for whatever cannot be read whole from this one file.
    pub(super) fn parse(bytes: &[u8], len: u64) -> Result<Self, BadQcow2> {
        let raw = Fields(bytes);
        if bytes.len() < V2_LEN {
            return Err(BadQcow2::Short { len });
        }
        if bytes.get(..4) != Some(b"QFI\xfb") {
            return Err(BadQcow2::NotQcow2);
        }
        let version = raw.u32(4);
        if !(2..=3).contains(&version) {
            return Err(BadQcow2::Version(version));
        }
        if version == 3 {
            if bytes.len() < V3_LEN {
                return Err(BadQcow2::Short { len });
            }
            features(raw)?;
        }
        if raw.u64(8) != 0 || raw.u32(16) != 0 {
            return Err(BadQcow2::Backing);
        }
        if raw.u32(32) != 0 {
            return Err(BadQcow2::Encrypted);
        }
        let cluster_bits = raw.u32(20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(field(
                "cluster_bits",
                cluster_bits.into(),
                "and 9 to 21 are possible",
            ));
        }
        let size = raw.u64(24);
        if size == 0 || !size.is_multiple_of(512) || size > MAX_SIZE {
            return Err(BadQcow2::Size(size));
        }
        let mut header = Self {
            version,
            cluster_bits,
            size,
            l1_offset: raw.u64(40),
            l1_used: 0,
        };
        header.l1_used = header.l1(u64::from(raw.u32(36)), len)?;
        header.refcounts(raw, len)?;
        if version == 3 {
            header.extent(raw, len)?;
        }
        Ok(header)
    }

    /// Checks the first-level table's place and answers how much of it is needed.
    fn l1(&self, entries: u64, len: u64) -> Result<u64, BadQcow2> {
        let used = self.size.div_ceil(self.cluster() * self.l2_entries());
        if entries < used {
            return Err(field(
                "l1_size",
                entries,
                "too few for the size of the content",
            ));
        }
        if entries * 8 > L1_MAX {
            return Err(field("l1_size", entries, "more than any image needs"));
        }
        self.aligned("l1_table_offset", self.l1_offset)?;
        within("its first-level table", self.l1_offset, entries * 8, len)?;
        Ok(used)
    }

    /// Refcounts say which clusters are free; reading needs none, but a file without them is cut.
    fn refcounts(&self, raw: Fields<'_>, len: u64) -> Result<(), BadQcow2> {
        let (offset, clusters) = (raw.u64(48), u64::from(raw.u32(56)));
        if clusters == 0 || clusters * self.cluster() > REFCOUNT_TABLE_MAX.max(self.cluster()) {
            return Err(field(
                "refcount_table_clusters",
                clusters,
                "which is not possible",
            ));
        }
        self.aligned("refcount_table_offset", offset)?;
        within("its refcount table", offset, clusters * self.cluster(), len)
    }

    /// The parts of the header that version 3 added.
    fn extent(&self, raw: Fields<'_>, len: u64) -> Result<(), BadQcow2> {
        let order = raw.u32(96);
        if order > 6 {
            return Err(field(
                "refcount_order",
                order.into(),
                "and 0 to 6 are possible",
            ));
        }
        let length = u64::from(raw.u32(100));
        if length < V3_LEN as u64 || !length.is_multiple_of(8) || length > self.cluster() {
            return Err(field("header_length", length, "which is not possible"));
        }
        within("its header", 0, length, len)
    }

    fn aligned(&self, name: &'static str, offset: u64) -> Result<(), BadQcow2> {
        if offset != 0 && offset.is_multiple_of(self.cluster()) {
            Ok(())
        } else {
            Err(field(name, offset, "which is where no cluster begins"))
        }
    }
}

/// Whatever changes how the file must be read.
fn features(raw: Fields<'_>) -> Result<(), BadQcow2> {
    let bits = raw.u64(72);
    if bits & 1 != 0 {
        return Err(BadQcow2::Unclean("not closed cleanly"));
    }
    if bits & 1 << 1 != 0 {
        return Err(BadQcow2::Unclean("damaged"));
    }
    if bits & 1 << 2 != 0 {
        return Err(BadQcow2::DataFile);
    }
    if bits & 1 << 3 != 0 {
        let zstd = raw.0.get(V3_LEN) == Some(&1);
        return Err(BadQcow2::Compression(if zstd {
            "zstd"
        } else {
            "something unknown"
        }));
    }
    if bits & 1 << 4 != 0 {
        return Err(BadQcow2::Feature(
            "extended L2 entries (subclusters)".into(),
        ));
    }
    if bits != 0 {
        return Err(BadQcow2::Feature(format!(
            "incompatible features {bits:#x}"
        )));
    }
    Ok(())
}

fn field(field: &'static str, value: u64, problem: &'static str) -> BadQcow2 {
    BadQcow2::Field {
        field,
        value,
        problem,
    }
}

/// Fails for what does not end within the file.
pub(super) fn within(
    what: impl Into<String>,
    offset: u64,
    count: u64,
    len: u64,
) -> Result<(), BadQcow2> {
    let end = offset.saturating_add(count);
    if end <= len {
        Ok(())
    } else {
        Err(BadQcow2::Beyond {
            what: what.into(),
            end,
            len,
        })
    }
}

/// Big-endian numbers; 0 where there are no bytes, which the lengths above exclude.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(self, at: usize) -> u32 {
        self.0
            .get(at..)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u32::from_be_bytes(*b))
    }

    fn u64(self, at: usize) -> u64 {
        self.0
            .get(at..)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u64::from_be_bytes(*b))
    }
}
