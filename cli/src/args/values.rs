//! Texts of the command line as values: sizes, times, labels, checksums, addresses.

use std::time::Duration;

use goldleaf_types::{BadBytes, Bytes};

pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}: want a time such as 30s or 5m"))
}

/// A control plane's URI. Without TLS only plain http is spoken.
pub fn server(text: &str) -> Result<String, String> {
    let uri = text.parse::<tonic::transport::Uri>().ok();
    let host = uri
        .as_ref()
        .filter(|u| u.scheme_str() == Some("http"))
        .and_then(|u| u.host());
    match host {
        Some(host) if !host.is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err("want http://HOST:PORT, such as http://127.0.0.1:4700".into()),
    }
}

pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("want KEY=VALUE".into()),
    }
}

pub fn file_and_size(text: &str) -> Result<(String, u64), String> {
    let (path, number) = text.rsplit_once('=').ok_or("want PATH=SIZE")?;
    if path.is_empty() {
        return Err("want PATH=SIZE".into());
    }
    Ok((path.to_owned(), size(number)?))
}

/// A SHA-256 in hexadecimal, with or without "sha256:" before it, as the wire wants it: without.
pub fn sha256(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(digits.to_ascii_lowercase())
    } else {
        Err("want 64 hexadecimal digits, as sha256sum prints them".into())
    }
}

/// Bytes, as [`Bytes`] reads them.
pub fn size(text: &str) -> Result<u64, String> {
    let size: Bytes = text.parse().map_err(|e: BadBytes| e.to_string())?;
    Ok(size.0)
}
