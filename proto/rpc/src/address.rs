//! Where a part may serve: on loopback, until there is TLS.

use std::net::SocketAddr;

/// Reads an address to serve on.
///
/// # Errors
///
/// What is wanted instead, as a sentence.
pub fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "want ADDRESS:PORT".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("only a loopback address (127.0.0.1 or [::1]) is served until there is TLS".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_served_without_tls() {
        assert!(loopback("127.0.0.1:1").is_ok() && loopback("[::1]:1").is_ok());
        for bad in [
            "0.0.0.0:1",
            "10.0.0.1:1",
            "[::]:1",
            "127.0.0.1",
            "localhost:1",
        ] {
            assert!(loopback(bad).is_err(), "{bad} passed");
        }
    }
}
