//! The label's bytes. `docs/disk-format.md` says the same in words.
//!
//! Every number is little-endian. Magic, version, checksum and feature bits keep their places in
//! every version to come, so that a refusal can always say why.

use goldleaf_types::{BlockSize, PoolId, Sectors};

use super::{
    GROWN, HEADER_BYTES, KNOWN_INCOMPATIBLE, LABEL_BYTES, Label, LabelError, NAME_MAX, REGIONS_MAX,
    Region, RegionKind, Role, VERSION,
};

pub(super) const MAGIC: [u8; 16] = *b"GOLDLEAF POOL\r\n\x1a";
pub(super) const AT_VERSION: usize = 16;
pub(super) const AT_CHECKSUM: usize = 20;
const AT_COMPATIBLE: usize = 24;
pub(super) const AT_INCOMPATIBLE: usize = 32;
const AT_POOL: usize = 40;
const AT_OWNER: usize = 56;
const AT_GENERATION: usize = 72;
pub(super) const AT_ROLE: usize = 80;
const AT_INDEX: usize = 84;
const AT_DATA_COUNT: usize = 88;
const AT_METADATA_COUNT: usize = 92;
const AT_FLAGS: usize = 96;
const AT_REGION_COUNT: usize = 100;
const AT_DEVICE_SIZE: usize = 104;
const AT_BLOCK_SIZE: usize = 112;
const AT_REGIONS: usize = 120;
const REGION_BYTES: usize = 24;
/// Regions of the first place; the others follow the name.
const REGIONS_FIRST: usize = 4;
const AT_MORE_REGIONS: usize = 360;
const AT_NAME_LEN: usize = 216;
const AT_NAME: usize = 224;
const AT_CLAIMED: usize = 352;

const FLAG_CLEAN: u32 = 1;

/// Reads fields of a sector of [`LABEL_BYTES`].
struct Fields<'a>(&'a [u8; LABEL_BYTES]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

/// CRC-32C of a sector whose checksum field counts as zero.
pub(super) fn checksum(sector: &[u8; LABEL_BYTES]) -> u32 {
    let crc = crc32c::crc32c(&sector[..AT_CHECKSUM]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &sector[AT_CHECKSUM + 4..])
}

/// Puts a sector's checksum right, whatever else is in it: a fuzzer would never guess one.
#[cfg(feature = "fuzzing")]
pub(in crate::catalogue) fn seal(sector: &mut [u8; LABEL_BYTES]) {
    let crc = checksum(sector);
    sector[AT_CHECKSUM..AT_CHECKSUM + 4].copy_from_slice(&crc.to_le_bytes());
}

impl Label {
    /// Reads one copy.
    ///
    /// # Errors
    ///
    /// [`LabelError::NoLabel`] without the magic, [`LabelError::Damaged`] for a wrong checksum or
    /// values that cannot be, [`LabelError::NewerVersion`] and [`LabelError::UnknownFeatures`] for
    /// a whole label that this version is not to open.
    pub fn decode(sector: &[u8]) -> Result<Self, LabelError> {
        let damaged = |problem| LabelError::Damaged { problem };
        if !sector.starts_with(&MAGIC) {
            return Err(LabelError::NoLabel);
        }
        let sector: &[u8; LABEL_BYTES] = sector
            .try_into()
            .map_err(|_| damaged("it is not 4096 bytes long"))?;
        let fields = Fields(sector);
        if fields.u32(AT_CHECKSUM) != checksum(sector) {
            return Err(damaged("its checksum is wrong"));
        }
        match fields.u32(AT_VERSION) {
            0 => return Err(damaged("its format is 0")),
            1..=VERSION => {}
            found => return Err(LabelError::NewerVersion { found }),
        }
        let incompatible = fields.u64(AT_INCOMPATIBLE);
        if incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return Err(LabelError::UnknownFeatures {
                bits: incompatible & !KNOWN_INCOMPATIBLE,
            });
        }
        let label = Self {
            pool: PoolId::from_bytes(fields.bytes(AT_POOL)),
            pool_name: name(&fields).map_err(damaged)?,
            role: role(fields.u32(AT_ROLE)).ok_or(damaged("its role is unknown"))?,
            index: fields.u32(AT_INDEX),
            data_count: fields.u32(AT_DATA_COUNT),
            metadata_count: fields.u32(AT_METADATA_COUNT),
            layout_generation: fields.u64(AT_GENERATION),
            owner_host: fields.bytes(AT_OWNER),
            claimed: i64::from_le_bytes(fields.bytes(AT_CLAIMED)),
            clean: fields.u32(AT_FLAGS) & FLAG_CLEAN != 0,
            compatible: fields.u64(AT_COMPATIBLE),
            incompatible,
            device_size: Sectors(fields.u64(AT_DEVICE_SIZE)),
            block_size: BlockSize::new(fields.u64(AT_BLOCK_SIZE))
                .map_err(|_| damaged("its block size is none"))?,
            regions: regions(&fields).map_err(damaged)?,
        };
        match label.problem() {
            None => Ok(label),
            Some(problem) => Err(damaged(problem)),
        }
    }

    /// The bytes of one copy.
    ///
    /// # Errors
    ///
    /// [`LabelError::Invalid`] for a label that [`Self::decode`] would not take.
    pub fn encode(&self) -> Result<[u8; LABEL_BYTES], LabelError> {
        if let Some(problem) = self.problem() {
            return Err(LabelError::Invalid { problem });
        }
        let mut sector = [0; LABEL_BYTES];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        let count = |n: usize| {
            u32::try_from(n)
                .expect("bounded by problem()")
                .to_le_bytes()
        };
        put(0, &MAGIC);
        put(AT_VERSION, &VERSION.to_le_bytes());
        put(AT_COMPATIBLE, &self.compatible.to_le_bytes());
        put(AT_INCOMPATIBLE, &self.incompatible.to_le_bytes());
        put(AT_POOL, self.pool.as_bytes());
        put(AT_OWNER, &self.owner_host);
        put(AT_CLAIMED, &self.claimed.to_le_bytes());
        put(AT_GENERATION, &self.layout_generation.to_le_bytes());
        put(AT_ROLE, &role_number(self.role).to_le_bytes());
        put(AT_INDEX, &self.index.to_le_bytes());
        put(AT_DATA_COUNT, &self.data_count.to_le_bytes());
        put(AT_METADATA_COUNT, &self.metadata_count.to_le_bytes());
        put(
            AT_FLAGS,
            &(if self.clean { FLAG_CLEAN } else { 0 }).to_le_bytes(),
        );
        put(AT_REGION_COUNT, &count(self.regions.len()));
        put(AT_DEVICE_SIZE, &self.device_size.0.to_le_bytes());
        put(AT_BLOCK_SIZE, &self.block_size.bytes().0.to_le_bytes());
        for (i, region) in self.regions.iter().enumerate() {
            let at = region_at(i);
            put(at, &kind_number(region.kind).to_le_bytes());
            put(at + 4, &region.order.to_le_bytes());
            put(at + 8, &region.start.0.to_le_bytes());
            put(at + 16, &region.len.0.to_le_bytes());
        }
        put(AT_NAME_LEN, &count(self.pool_name.len()));
        put(AT_NAME, self.pool_name.as_bytes());
        let crc = checksum(&sector);
        sector[AT_CHECKSUM..AT_CHECKSUM + 4].copy_from_slice(&crc.to_le_bytes());
        Ok(sector)
    }

    /// What makes it no valid label, if anything.
    fn problem(&self) -> Option<&'static str> {
        let index_ok = match self.role {
            Role::Data => self.index < self.data_count,
            Role::Metadata => self.index < self.metadata_count,
            Role::Spare => true,
        };
        if !index_ok {
            return Some("its number is not below the number of devices");
        }
        if self.incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return Some("it asks for unknown features");
        }
        if self.pool_name.len() > NAME_MAX || self.pool_name.chars().any(char::is_control) {
            return Some("the pool's name is too long or has control characters");
        }
        if self.regions.len() > REGIONS_MAX {
            return Some("it has too many regions");
        }
        let grown = self.regions.len() > REGIONS_FIRST || self.regions.iter().any(|r| r.order != 0);
        if grown && self.incompatible & GROWN == 0 {
            return Some("its regions have an order and it does not say so");
        }
        let mut regions = self.regions.clone();
        regions.sort_by_key(|region| region.start);
        let mut end = HEADER_BYTES / goldleaf_types::SECTOR;
        for region in regions {
            if region.len.0 == 0 {
                return Some("a region is empty");
            }
            if region.start.0 < end {
                return Some("a region overlaps another or the labels");
            }
            match region.start.0.checked_add(region.len.0) {
                Some(next) if next <= self.device_size.0 => end = next,
                Some(_) | None => return Some("a region ends outside the device"),
            }
        }
        None
    }
}

const fn region_at(index: usize) -> usize {
    if index < REGIONS_FIRST {
        AT_REGIONS + index * REGION_BYTES
    } else {
        AT_MORE_REGIONS + (index - REGIONS_FIRST) * REGION_BYTES
    }
}

fn name(fields: &Fields<'_>) -> Result<String, &'static str> {
    let len = usize::try_from(fields.u32(AT_NAME_LEN)).unwrap_or(usize::MAX);
    if len > NAME_MAX {
        return Err("the pool's name is too long");
    }
    let bytes = fields.0[AT_NAME..AT_NAME + len].to_vec();
    String::from_utf8(bytes).map_err(|_| "the pool's name is no text")
}

fn regions(fields: &Fields<'_>) -> Result<Vec<Region>, &'static str> {
    let count = usize::try_from(fields.u32(AT_REGION_COUNT)).unwrap_or(usize::MAX);
    if count > REGIONS_MAX {
        return Err("it has too many regions");
    }
    let region = |i: usize| {
        let at = region_at(i);
        Some(Region {
            kind: kind(fields.u32(at))?,
            start: Sectors(fields.u64(at + 8)),
            len: Sectors(fields.u64(at + 16)),
            order: fields.u32(at + 4),
        })
    };
    (0..count)
        .map(|i| region(i).ok_or("the kind of a region is unknown"))
        .collect()
}

fn role(number: u32) -> Option<Role> {
    [Role::Data, Role::Metadata, Role::Spare]
        .into_iter()
        .find(|r| role_number(*r) == number)
}

const fn role_number(role: Role) -> u32 {
    match role {
        Role::Data => 1,
        Role::Metadata => 2,
        Role::Spare => 3,
    }
}

fn kind(number: u32) -> Option<RegionKind> {
    [
        RegionKind::Catalogue,
        RegionKind::Metadata,
        RegionKind::Data,
    ]
    .into_iter()
    .find(|k| kind_number(*k) == number)
}

const fn kind_number(kind: RegionKind) -> u32 {
    match kind {
        RegionKind::Catalogue => 1,
        RegionKind::Metadata => 2,
        RegionKind::Data => 3,
    }
}
