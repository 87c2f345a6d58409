//! The readers of what lies on a pool's devices, for a fuzzer: feature `fuzzing`.
//!
//! Called by the targets in `tests/fuzz`. Each panics when a reader breaks its promise: what is
//! taken is written back as bytes that read the same.

use super::Label;
use super::label::{LABEL_BYTES, seal};
use super::shapes::{decode_pool, decode_thin, encode_pool, encode_thin};

/// Reads bytes as a device's label, as they are and with the checksum put right.
pub fn label(bytes: &[u8]) {
    whole_label(bytes);
    let mut sector = [0; LABEL_BYTES];
    let len = bytes.len().min(LABEL_BYTES);
    sector[..len].copy_from_slice(&bytes[..len]);
    seal(&mut sector);
    whole_label(&sector);
}

fn whole_label(bytes: &[u8]) {
    if let Ok(label) = Label::decode(bytes) {
        let written = label
            .encode()
            .expect("a label that was read can be written");
        let again = Label::decode(&written).expect("a label that was written can be read");
        assert_eq!(again, label);
    }
}

/// Reads bytes as each kind of row of the catalogue.
pub fn rows(bytes: &[u8]) {
    if let Ok(row) = decode_thin(bytes) {
        let written = encode_thin(&row).expect("a thin's row that was read can be written");
        assert_eq!(decode_thin(&written).expect("and read again"), row);
    }
    if let Ok(row) = decode_pool(bytes) {
        let written = encode_pool(&row).expect("a pool's row that was read can be written");
        assert_eq!(decode_pool(&written).expect("and read again"), row);
    }
}
