//! The part of the network block device protocol that shows a disk to a kernel.
//!
//! Called with one connection for each disk. Fixed newstyle negotiation with `NBD_OPT_GO` or
//! `NBD_OPT_EXPORT_NAME`; reads, writes (with FUA), flushes and the end. No trims and no structured
//! replies: what is not offered a client does not ask for. Numbers are big-endian, as in
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use std::io::{Read, Result, Write};
use std::os::unix::net::UnixStream;

const SERVER_MAGIC: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Fixed newstyle, and no zeroes after an export's name.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// There are flags; flushes and FUA are understood.
const EXPORT_FLAGS: u16 = 0b1101;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_UNSUPPORTED: u32 = (1 << 31) | 1;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISCONNECT: u16 = 2;
const CMD_FLUSH: u16 = 3;
const FLAG_FUA: u16 = 1;

/// Larger requests are somebody else's protocol.
const LARGEST: usize = 64 << 20;

/// What a client asks of a disk.
#[derive(Debug)]
pub enum Request<'a> {
    /// Bytes to fill, from this offset.
    Read(u64, &'a mut [u8]),
    /// Bytes to keep at this offset; with `true` before the answer.
    Write(u64, &'a [u8], bool),
    /// Keep all that was answered.
    Flush,
}

/// Serves one client until it leaves. An error of `answer` is an I/O error of the disk.
///
/// # Errors
///
/// When the connection ends without a goodbye, or does not speak the protocol.
pub fn serve(
    mut stream: UnixStream,
    size: u64,
    mut answer: impl FnMut(Request<'_>) -> Result<()>,
) -> Result<()> {
    if !negotiate(&mut stream, size)? {
        return Ok(());
    }
    let mut room = Vec::new();
    loop {
        expect(u32_of(&mut stream)? == REQUEST, "a request")?;
        let (flags, kind) = (u16_of(&mut stream)?, u16_of(&mut stream)?);
        let handle = u64_of(&mut stream)?;
        let (offset, len) = (u64_of(&mut stream)?, u32_of(&mut stream)?);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        expect(len <= LARGEST, "a request of a size that is served")?;
        room.resize(len, 0);
        let result = match kind {
            CMD_READ => answer(Request::Read(offset, &mut room)),
            CMD_WRITE => {
                stream.read_exact(&mut room)?;
                answer(Request::Write(offset, &room, flags & FLAG_FUA != 0))
            }
            CMD_FLUSH => answer(Request::Flush),
            CMD_DISCONNECT => return Ok(()),
            _ => Err(std::io::Error::from_raw_os_error(22)),
        };
        let errno = result.err().map_or(0, |e| e.raw_os_error().unwrap_or(5));
        let mut reply = REPLY.to_be_bytes().to_vec();
        reply.extend(errno.to_be_bytes());
        reply.extend(handle.to_be_bytes());
        if kind == CMD_READ && errno == 0 {
            reply.extend(&room);
        }
        stream.write_all(&reply)?;
    }
}

/// Comes to terms; `false` when the client leaves instead.
fn negotiate(stream: &mut UnixStream, size: u64) -> Result<bool> {
    stream.write_all(SERVER_MAGIC)?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    let _client_flags = u32_of(stream)?;
    loop {
        let mut magic = [0; 8];
        stream.read_exact(&mut magic)?;
        expect(&magic == b"IHAVEOPT", "an option")?;
        let option = u32_of(stream)?;
        let len = usize::try_from(u32_of(stream)?).unwrap_or(usize::MAX);
        expect(len <= LARGEST, "a short option")?;
        let mut data = vec![0; len];
        stream.read_exact(&mut data)?;
        match option {
            OPT_EXPORT_NAME => {
                stream.write_all(&size.to_be_bytes())?;
                stream.write_all(&EXPORT_FLAGS.to_be_bytes())?;
                return Ok(true);
            }
            OPT_GO => {
                // Kind 0, the export: its size and its flags.
                let mut export = vec![0, 0];
                export.extend(size.to_be_bytes());
                export.extend(EXPORT_FLAGS.to_be_bytes());
                reply(stream, option, REP_INFO, &export)?;
                reply(stream, option, REP_ACK, &[])?;
                return Ok(true);
            }
            OPT_ABORT => {
                reply(stream, option, REP_ACK, &[])?;
                return Ok(false);
            }
            _ => reply(stream, option, REP_UNSUPPORTED, &[])?,
        }
    }
}

fn reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> Result<()> {
    let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes)
}

fn expect(is: bool, what: &str) -> Result<()> {
    if is {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("nbd: {what} was expected")))
    }
}

fn bytes_of<const N: usize>(stream: &mut UnixStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_of(stream: &mut UnixStream) -> Result<u16> {
    bytes_of(stream).map(u16::from_be_bytes)
}

fn u32_of(stream: &mut UnixStream) -> Result<u32> {
    bytes_of(stream).map(u32::from_be_bytes)
}

fn u64_of(stream: &mut UnixStream) -> Result<u64> {
    bytes_of(stream).map(u64::from_be_bytes)
}
