//! Strings and paths that need not be UTF-8, in JSON messages between processes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// OS strings, which need not be UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strings(pub(crate) Vec<OsString>);

/// An OS path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentPath(pub(crate) PathBuf);

impl Serialize for Strings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // OS strings contain no NUL, so NUL terminates each.
        let mut bytes = Vec::new();
        for string in &self.0 {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(serde::de::Error::custom)?;
        let Some(bytes) = bytes.strip_suffix(&[0]) else { return Ok(Strings::default()) };
        Ok(Strings(
            bytes.split(|byte| *byte == 0).map(|part| OsStr::from_bytes(part).to_owned()).collect(),
        ))
    }
}

impl Serialize for SentPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.as_os_str().as_bytes()))
    }
}

impl<'de> Deserialize<'de> for SentPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(serde::de::Error::custom)?;
        Ok(SentPath(PathBuf::from(OsString::from_vec(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_are_not_utf8_survive() {
        let strings = Strings(vec![
            OsString::from_vec(b"A=\xff\xfe".to_vec()),
            OsString::new(),
            OsString::from("B=ü\n"),
        ]);
        let text = serde_json::to_string(&strings).unwrap();
        assert_eq!(serde_json::from_str::<Strings>(&text).unwrap(), strings);
        let none = serde_json::to_string(&Strings::default()).unwrap();
        assert_eq!(serde_json::from_str::<Strings>(&none).unwrap(), Strings::default());
        let path = SentPath(OsString::from_vec(b"/tmp/\xff".to_vec()).into());
        assert_eq!(
            serde_json::from_str::<SentPath>(&serde_json::to_string(&path).unwrap()).unwrap(),
            path
        );
    }
}
