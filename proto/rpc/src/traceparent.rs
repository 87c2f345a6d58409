//! W3C trace context: which trace a call is a part of, and which step of it called.
//!
//! Source: <https://www.w3.org/TR/trace-context/>, section "traceparent Header".

use std::fmt;
use std::str::FromStr;

/// A `traceparent` of version 00.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent {
    trace: String,
    parent: String,
    flags: u8,
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent: want 00-<32 hexadecimal digits>-<16>-<2>, in lower case, neither id zero")]
pub struct BadTraceparent;

impl Traceparent {
    /// The beginning of a new trace, recorded.
    #[must_use]
    pub fn mint() -> Self {
        Self {
            trace: uuid::Uuid::new_v4().simple().to_string(),
            parent: step(),
            flags: 1,
        }
    }

    /// The next step of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            trace: self.trace.clone(),
            parent: step(),
            flags: self.flags,
        }
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// The id of the step that calls: 16 hexadecimal digits.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }
}

/// An id of a step; a random UUID's second half is never zero.
fn step() -> String {
    format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().1)
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.parent, self.flags)
    }
}

impl FromStr for Traceparent {
    type Err = BadTraceparent;

    /// Reads any version but ff: a newer one begins with the same four parts.
    fn from_str(text: &str) -> Result<Self, BadTraceparent> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().ok_or(BadTraceparent)?;
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if part.len() == digits && part.bytes().all(lower) {
                Ok(part)
            } else {
                Err(BadTraceparent)
            }
        };
        let (version, trace, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let zero = |id: &str| id.bytes().all(|b| b == b'0');
        let more = parts.next().is_some();
        if version == "ff" || (version == "00" && more) || zero(trace) || zero(parent) {
            return Err(BadTraceparent);
        }
        Ok(Self {
            trace: trace.to_owned(),
            parent: parent.to_owned(),
            flags: u8::from_str_radix(flags, 16).map_err(|_| BadTraceparent)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_one_is_read_and_written_as_it_was() {
        let read: Traceparent = GOOD.parse().unwrap();
        assert_eq!(read.to_string(), GOOD);
        assert_eq!(read.trace(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let newer = GOOD.replacen("00", "cc", 1) + "-what-comes-later";
        assert_eq!(newer.parse::<Traceparent>().unwrap(), read);
    }

    #[test]
    fn what_the_standard_forbids_is_no_traceparent() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD[..GOOD.len() - 1],
            &format!("{GOOD}-01"),
            &GOOD.replace("4bf9", "4bg9"),
            &GOOD.replace('-', "_"),
            &zero_trace,
            &zero_parent,
        ] {
            assert_eq!(bad.parse::<Traceparent>(), Err(BadTraceparent), "{bad:?}");
        }
    }

    #[test]
    fn a_child_is_another_step_of_the_same_trace_and_what_is_minted_is_good() {
        let first = Traceparent::mint();
        let child = first.child();
        assert_eq!(child.trace(), first.trace());
        assert_ne!(child.parent(), first.parent());
        for one in [first, child] {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        assert_ne!(Traceparent::mint().trace(), Traceparent::mint().trace());
    }
}
