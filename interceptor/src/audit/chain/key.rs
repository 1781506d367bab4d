//! The key of a hash chain, read from a file that only its owner can read.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, hmac};
use zeroize::Zeroizing;

use super::Mac;
use crate::files;

/// The minimum length of a key file in bytes: that of the MAC.
const SHORTEST: usize = 32;
/// The maximum length.
const LONGEST: usize = 4096;

/// The key of a chain. It is never displayed.
#[derive(Clone)]
pub struct ChainKey(hmac::Key);

/// Why a key file is rejected. Never shows its content.
#[derive(Debug, thiserror::Error)]
pub enum ChainKeyError {
    /// It cannot be read.
    #[error("cannot read the audit chain's key {path}: {cause}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error. Part of the message, so not also its source.
        cause: io::Error,
    },
    /// Every user of the machine can read or write it.
    #[error(
        "the audit chain's key {path} is open to every user of this machine (mode {mode:04o}): \
         chmod 600 {path}",
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is too short or too long.
    #[error(
        "the audit chain's key {path} has {length} bytes, not between {SHORTEST} and {LONGEST}: \
         make one with `head -c 32 /dev/urandom > FILE`, mode 0600",
        path = path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length, or one more than the maximum.
        length: usize,
    },
}

impl ChainKey {
    /// Reads a key: the whole file, 32 to 4096 bytes.
    pub fn read(path: &Path) -> Result<ChainKey, ChainKeyError> {
        let unreadable = |cause| ChainKeyError::Unreadable { path: path.to_owned(), cause };
        let (file, metadata) = files::open(path).map_err(unreadable)?;
        let mode = metadata.mode();
        // A shell's pipe is not a regular file, and its mode does not matter.
        if mode & libc::S_IFMT == libc::S_IFREG && mode & 0o007 != 0 {
            return Err(ChainKeyError::Exposed { path: path.to_owned(), mode: mode & 0o7777 });
        }
        // Allocated up front: a growing buffer leaves copies of the key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 2));
        file.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        ChainKey::new(&bytes)
            .ok_or_else(|| ChainKeyError::Length { path: path.to_owned(), length: bytes.len() })
    }

    /// A key of these bytes; `None` unless there are 32 to 4096.
    pub fn new(bytes: &[u8]) -> Option<ChainKey> {
        // The library wipes its own copy.
        (SHORTEST..=LONGEST)
            .contains(&bytes.len())
            .then(|| ChainKey(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// The MAC of `content` after a line with the MAC `previous`.
    pub(super) fn mac(&self, previous: &Mac, content: &[u8]) -> Mac {
        let mut context = hmac::Context::with_key(&self.0);
        // The previous MAC has a fixed length, so the concatenation is unambiguous.
        context.update(previous);
        context.update(content);
        let tag = context.sign();
        let mut mac = super::ORIGIN;
        // HMAC-SHA256 has 32 bytes; were it to have fewer, no line would verify.
        for (byte, signed) in mac.iter_mut().zip(tag.as_ref()) {
            *byte = *signed;
        }
        mac
    }

    /// Whether `mac` is that of `content` after `previous`.
    pub(super) fn verify(&self, previous: &Mac, content: &[u8], mac: &Mac) -> bool {
        constant_time::verify_slices_are_equal(&self.mac(previous, content), mac).is_ok()
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_long_enough_and_its_owners_alone_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let write = |text: &[u8], mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            ChainKey::read(&path)
        };
        let secret = b"a secret of thirty-two bytes....";
        assert_eq!(format!("{:?}", write(secret, 0o600).unwrap()), "ChainKey(…)");
        assert!(write(secret, 0o640).is_ok());
        for (text, mode, expected) in [
            (&secret[..31], 0o600, "has 31 bytes, not between 32 and 4096"),
            (&[b'x'; 5000][..], 0o600, "has 4097 bytes"),
            (&secret[..], 0o644, "chmod 600"),
            (&secret[..], 0o602, "mode 0602"),
        ] {
            let error = write(text, mode).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains(expected) && shown.contains("/key") && !shown.contains("secret"),
                "{shown}"
            );
        }
        let error = ChainKey::read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("/none: No such file"), "{error}");
    }

    #[test]
    fn a_mac_is_the_hmac_of_the_one_before_and_the_content() {
        // Computed with another implementation: Python's hmac over 32 zero bytes and b"content",
        // the key 32 bytes of 0x6b.
        let key = ChainKey::new(&[0x6b; 32]).unwrap();
        let mut hex = String::new();
        super::super::push_hex(&mut hex, &key.mac(&super::super::ORIGIN, b"content"));
        assert_eq!(hex, "6ce1d0402a66552607f51c2295c6347d61cfb86b6132718c8e8f78cdad83e521");
        let mac = key.mac(&[1; 32], b"content");
        assert!(key.verify(&[1; 32], b"content", &mac));
        assert!(!key.verify(&[2; 32], b"content", &mac) && !key.verify(&[1; 32], b"contend", &mac));
    }
}
