//! The ioctls themselves: the only `unsafe` of Goldleaf.
//!
//! Every call takes a buffer by mutable reference and hands it to the kernel for the time of the
//! call. What the kernel wrote is read elsewhere, by safe code that checks each bound.
#![allow(unsafe_code)]

use core::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// Length of `struct dm_ioctl` (linux/dm-ioctl.h), which is part of each command's number.
pub(crate) const DM_HEADER: usize = 312;

/// A device-mapper command's number for its 8 low bits (linux/dm-ioctl.h).
const fn dm_opcode(command: u8) -> Opcode {
    opcode::read_write::<[u8; DM_HEADER]>(0xfd, command)
}

/// One device-mapper ioctl over a buffer that begins with `struct dm_ioctl`.
struct DmCall<'a> {
    command: u8,
    buffer: &'a mut [u64],
}

// SAFETY: the pointer is to the whole buffer, 8-byte aligned as `struct dm_ioctl` asks, and lives
// for the call. The kernel reads and writes no further than the header's `data_size`, which
// `buffer::Buffer` sets to the buffer's length and nothing else can change.
unsafe impl Ioctl for DmCall<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        dm_opcode(self.command)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<()> {
        Ok(())
    }
}

/// Runs one device-mapper command.
pub(crate) fn dm(control: BorrowedFd<'_>, command: u8, buffer: &mut [u64]) -> Result<()> {
    assert!(
        std::mem::size_of_val(buffer) >= DM_HEADER,
        "the buffer holds a whole header"
    );
    // SAFETY: `control` is an open file; `DmCall` keeps its promises above. On a file that is not
    // the control node the kernel answers ENOTTY and touches nothing.
    unsafe { rustix::ioctl::ioctl(control, DmCall { command, buffer }) }
}

/// An ioctl of a fixed number over a buffer of bytes.
struct RawCall<'a, const N: usize> {
    opcode: Opcode,
    buffer: &'a mut Aligned<N>,
}

/// Bytes aligned for any of the structs that the loop and block ioctls use.
#[repr(align(8))]
pub(crate) struct Aligned<const N: usize>(pub(crate) [u8; N]);

// SAFETY: each caller below pairs the number with a buffer of the length that the kernel's
// definition of that number reads and writes, 8-byte aligned; it lives for the call.
unsafe impl<const N: usize> Ioctl for RawCall<'_, N> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<()> {
        Ok(())
    }
}

/// An ioctl whose argument is a plain number and whose answer is one.
struct NumberCall {
    opcode: Opcode,
    argument: usize,
}

// SAFETY: the argument is passed as a number and never as memory, as each caller's ioctl wants it.
unsafe impl Ioctl for NumberCall {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.argument)
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(output)
    }
}

/// Length of `struct loop_config` (linux/loop.h): fd, block size, `loop_info64`, 64 reserved bytes.
pub(crate) const LOOP_CONFIG: usize = 304;
/// Length of `struct loop_info64` (linux/loop.h).
pub(crate) const LOOP_INFO: usize = 232;

/// LOOP_CTL_GET_FREE: the number of a free loop device.
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: linux/loop.h: number 0x4C82, no argument, answers the device's number.
    unsafe {
        rustix::ioctl::ioctl(
            control,
            NumberCall {
                opcode: 0x4C82,
                argument: 0,
            },
        )
    }
}

/// LOOP_CONFIGURE: attaches a file in one step.
pub(crate) fn loop_configure(
    device: BorrowedFd<'_>,
    config: &mut Aligned<LOOP_CONFIG>,
) -> Result<()> {
    // SAFETY: linux/loop.h: number 0x4C0A reads one `struct loop_config`, of which this is the length.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            RawCall {
                opcode: 0x4C0A,
                buffer: config,
            },
        )
    }
}

/// LOOP_GET_STATUS64: what is attached.
pub(crate) fn loop_status(device: BorrowedFd<'_>, info: &mut Aligned<LOOP_INFO>) -> Result<()> {
    // SAFETY: linux/loop.h: number 0x4C05 writes one `struct loop_info64`, of which this is the length.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            RawCall {
                opcode: 0x4C05,
                buffer: info,
            },
        )
    }
}

/// LOOP_CLR_FD: detaches, at the last close if the device is in use.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: linux/loop.h: number 0x4C01, no argument.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            NumberCall {
                opcode: 0x4C01,
                argument: 0,
            },
        )
    }
    .map(drop)
}

/// LOOP_SET_CAPACITY: takes over the size that the file has now.
pub(crate) fn loop_set_capacity(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: linux/loop.h: number 0x4C07, no argument.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            NumberCall {
                opcode: 0x4C07,
                argument: 0,
            },
        )
    }
    .map(drop)
}

/// BLKGETSIZE64: a block device's size in bytes.
pub(crate) fn block_size64(device: BorrowedFd<'_>) -> Result<u64> {
    let mut size = Aligned([0; 8]);
    let opcode = opcode::read::<usize>(0x12, 114);
    // SAFETY: linux/fs.h: `_IOR(0x12, 114, size_t)` writes 8 bytes.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            RawCall {
                opcode,
                buffer: &mut size,
            },
        )
    }?;
    Ok(u64::from_ne_bytes(size.0))
}

/// BLKDISCARD: gives a stretch of a block device up, in bytes.
pub(crate) fn block_discard(device: BorrowedFd<'_>, start: u64, len: u64) -> Result<()> {
    let mut range = Aligned([0; 16]);
    range.0[..8].copy_from_slice(&start.to_ne_bytes());
    range.0[8..].copy_from_slice(&len.to_ne_bytes());
    let opcode = opcode::none(0x12, 119);
    // SAFETY: linux/fs.h: `_IO(0x12, 119)` reads two 64-bit numbers.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            RawCall {
                opcode,
                buffer: &mut range,
            },
        )
    }
}

/// BLKROSET: makes a block device refuse writes, or take them again.
pub(crate) fn block_set_read_only(device: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let mut flag = Aligned([0; 8]);
    flag.0[..4].copy_from_slice(&i32::from(read_only).to_ne_bytes());
    let opcode = opcode::none(0x12, 93);
    // SAFETY: linux/fs.h: `_IO(0x12, 93)` reads one int.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            RawCall {
                opcode,
                buffer: &mut flag,
            },
        )
    }
}

/// BLKROGET: whether a block device refuses writes.
pub(crate) fn block_read_only(device: BorrowedFd<'_>) -> Result<bool> {
    let mut flag = Aligned([0; 8]);
    let opcode = opcode::none(0x12, 94);
    // SAFETY: linux/fs.h: `_IO(0x12, 94)` writes one int.
    unsafe {
        rustix::ioctl::ioctl(
            device,
            RawCall {
                opcode,
                buffer: &mut flag,
            },
        )
    }?;
    Ok(flag.0[..4] != [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel_s_headers() {
        // DM_VERSION and DM_TARGET_MSG on x86-64 and aarch64 alike: _IOWR(0xfd, n, 312 bytes).
        assert_eq!(dm_opcode(0), 0xc138_fd00);
        assert_eq!(dm_opcode(14), 0xc138_fd0e);
        assert_eq!(opcode::read::<usize>(0x12, 114), 0x8008_1272);
    }
}
