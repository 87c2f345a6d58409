//! The readers of images and of their records, for a fuzzer: feature `fuzzing`.
//!
//! Called by the targets in `tests/fuzz`. Each panics when a reader breaks its promise: a record
//! that is taken is written back as bytes that read the same, and a qcow2 file gives exactly as
//! many bytes as its header says, within the budget, or is refused.

use std::fs::{self, File};
use std::path::Path;

use goldleaf_types::Bytes;

use super::budget::Budget;
use super::meter::Meter;
use super::qcow2;
use super::row;
use super::writer::RawWriter;

/// What a conversion may write: enough for a few clusters, so that a case takes no time.
const ROOM: Bytes = Bytes(4 << 20);

/// Reads bytes as the record of an image in `folder`.
pub fn record(folder: &Path, bytes: &[u8]) {
    if let Ok(record) = row::decode(folder, bytes) {
        let written = row::encode(&record).expect("a record that was read can be written");
        let again = row::decode(folder, &written).expect("and read again");
        assert_eq!(again, record);
    }
}

/// Converts bytes as a qcow2 file; `folder` takes what is written, for the time of the call.
///
/// # Panics
///
/// Also when the folder cannot be used.
pub fn convert(folder: &Path, bytes: &[u8]) {
    let path = folder.join("in.qcow2");
    fs::write(&path, bytes).expect("the folder can be written");
    let file = File::open(&path).expect("the file was just written");
    let budget = Budget::new(ROOM);
    let mut writer = RawWriter::create(folder, budget.reserve()).expect("a part can be made");
    if qcow2::convert(&file, "file", &mut writer, &Meter::silent()).is_ok() {
        let done = writer.finish().expect("what was converted can be kept");
        let said = bytes.get(24..32).and_then(|field| field.try_into().ok());
        let said = u64::from_be_bytes(said.expect("a file without a size was taken"));
        assert_eq!(done.size.0, said.next_multiple_of(goldleaf_types::SECTOR));
    }
}
