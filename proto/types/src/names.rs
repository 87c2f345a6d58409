//! Names and labels that people give.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A user's name for a volume, snapshot, image, pool or node.
///
/// 1 to 128 of letters, digits, `.`, `_` and `-`, the first and last a letter or digit: safe as one
/// part of a path, and wide enough for what Kubernetes generates.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name: want 1 to 128 letters, digits, '.', '_' or '-', beginning and ending with \
     a letter or digit"
)]
pub struct BadName(pub String);

impl Name {
    /// Most characters of a name.
    pub const MAX: usize = 128;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let ok = text.len() <= Self::MAX
            && edge(text.bytes().next())
            && edge(text.bytes().next_back())
            && text.bytes().all(inner);
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

/// A name of a channel: two names or more with a `/` between them, at most 128 characters in all.
///
/// The slash tells it from the name of an image, so that one can stand wherever the other may.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChannelName(String);

/// Text that is no name of a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no channel's name: want names with a '/' between them, as in \"debian/stable\", at \
     most 128 characters"
)]
pub struct BadChannelName(pub String);

impl ChannelName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = BadChannelName;

    fn from_str(text: &str) -> Result<Self, BadChannelName> {
        let parts = text.split('/').map(str::parse::<Name>);
        let ok =
            text.len() <= Name::MAX && text.contains('/') && parts.into_iter().all(|p| p.is_ok());
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadChannelName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for ChannelName {
    type Error = BadChannelName;

    fn try_from(text: String) -> Result<Self, BadChannelName> {
        text.parse()
    }
}

impl From<ChannelName> for String {
    fn from(name: ChannelName) -> String {
        name.0
    }
}

/// Key and value pairs that people set and filter by; Goldleaf never reads a meaning into them.
///
/// At most 64 of them; keys of 1 to 128 and values of 0 to 256 printable ASCII characters, no key
/// with `=` or `,`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Most labels on one thing.
    pub const MAX: usize = 64;

    /// The labels, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The value of one label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = BadName;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, BadName> {
        let printable = |s: &str| s.bytes().all(|b| (0x20..0x7f).contains(&b));
        for (key, value) in &map {
            let key_ok =
                (1..=128).contains(&key.len()) && printable(key) && !key.contains(['=', ',']);
            if !key_ok || value.len() > 256 || !printable(value) {
                return Err(BadName(key.chars().take(80).collect()));
            }
        }
        if map.len() > Self::MAX {
            return Err(BadName(format!(
                "{} labels, at most {}",
                map.len(),
                Self::MAX
            )));
        }
        Ok(Self(map))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_one_safe_part_of_a_path() {
        for good in ["a", "vm1", "debian-12", "pvc-0c9e.v2_x", "X"] {
            assert!(good.parse::<Name>().is_ok(), "{good:?} refused");
        }
        let long = "a".repeat(129);
        for bad in [
            "", ".", "..", "-a", "a-", "a/b", "../x", "a b", "a\n", "\u{e9}", "a\0", &long,
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn a_channels_name_has_a_slash_and_no_images_name_has_one() {
        let long = format!("a/{}", "b".repeat(126));
        for good in ["debian/stable", "a/b/c-1", &long] {
            let name: ChannelName = good.parse().unwrap();
            assert_eq!(name.as_str(), good);
            assert!(good.parse::<Name>().is_err(), "{good:?} is an image's too");
        }
        for bad in [
            "",
            "/",
            "a",
            "a/",
            "/a",
            "a//b",
            "a/../b",
            "a/b ",
            &format!("{long}b"),
        ] {
            assert!(bad.parse::<ChannelName>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn labels_are_bounded() {
        let many = (0..65)
            .map(|i| (format!("k{i}"), String::new()))
            .collect::<BTreeMap<_, _>>();
        assert!(Labels::try_from(many).is_err());
        assert!(Labels::try_from(BTreeMap::from([("a=b".into(), "c".into())])).is_err());
        assert!(Labels::try_from(BTreeMap::from([("a".into(), "b".into())])).is_ok());
    }
}
