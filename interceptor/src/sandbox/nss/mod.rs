//! The NSS database in which Chromium, its relatives and other programs look for CAs: `cert9.db`
//! and `key4.db`, two SQLite files, here with one CA and no key (sqlite-backed softoken,
//! `lib/softoken/sdb.c` of NSS).
//!
//! Its trust records are unsigned: NSS requires signatures only if the database has a password.

mod sqlite;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use sqlite::{Page, Value};

/// The two files of a database.
#[derive(Debug)]
pub(crate) struct Database {
    /// Certificates and trust records.
    pub(crate) cert9: Vec<u8>,
    /// Keys: none.
    pub(crate) key4: Vec<u8>,
}

/// The certificate's label, for tools that list the database.
const LABEL: &[u8] = b"interceptor sandbox";

/// NSS's encoding of a present but empty attribute.
const NULL: &[u8] = &[0xa5, 0x00, 0x5a];

// Attributes and values of PKCS #11 and, from 0xce534350 on, NSS's own (`pkcs11t.h`, `pkcs11n.h`).
const CLASS: u32 = 0x0;
const TOKEN: u32 = 0x1;
const PRIVATE: u32 = 0x2;
const NAME: u32 = 0x3;
const VALUE: u32 = 0x11;
const CERTIFICATE_TYPE: u32 = 0x80;
const ISSUER: u32 = 0x81;
const SERIAL_NUMBER: u32 = 0x82;
const SUBJECT: u32 = 0x101;
const ID: u32 = 0x102;
const MODIFIABLE: u32 = 0x170;
const TRUST_SERVER_AUTH: u32 = 0xce53_6358;
const TRUST_CLIENT_AUTH: u32 = 0xce53_6359;
const TRUST_CODE_SIGNING: u32 = 0xce53_635a;
const TRUST_EMAIL_PROTECTION: u32 = 0xce53_635b;
const TRUST_STEP_UP_APPROVED: u32 = 0xce53_6360;
const CERT_SHA1_HASH: u32 = 0xce53_63b4;
const CLASS_CERTIFICATE: [u8; 4] = 1_u32.to_be_bytes();
const CLASS_TRUST: [u8; 4] = 0xce53_4353_u32.to_be_bytes();
const X_509: [u8; 4] = 0_u32.to_be_bytes();
const TRUSTED_DELEGATOR: [u8; 4] = 0xce53_4352_u32.to_be_bytes();
const MUST_VERIFY: [u8; 4] = 0xce53_4353_u32.to_be_bytes();

/// The columns of NSS's tables: every attribute it knows.
const ATTRIBUTES: [u32; 119] = [
    0x0, 0x1, 0x2, 0x3, 0x10, 0x11, 0x12, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88,
    0x89, 0x8a, 0x8b, 0x90, 0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106, 0x107, 0x108, 0x109,
    0x10a, 0x10b, 0x10c, 0x110, 0x111, 0x120, 0x121, 0x122, 0x123, 0x124, 0x125, 0x126, 0x127,
    0x128, 0x129, 0x130, 0x131, 0x132, 0x133, 0x134, 0x160, 0x161, 0x162, 0x163, 0x164, 0x165,
    0x166, 0x170, 0x180, 0x181, 0x200, 0x201, 0x202, 0x210, 0x300, 0x301, 0x302, 0x400, 0x401,
    0x402, 0x403, 0x404, 0x405, 0x406, 0x480, 0x481, 0x482, 0x500, 0x501, 0x502, 0x503, 0x40000211,
    0x40000212, 0x80000001, 0xce534351, 0xce534352, 0xce534353, 0xce534354, 0xce534355, 0xce534356,
    0xce534357, 0xce534358, 0xce534364, 0xce534365, 0xce534366, 0xce534367, 0xce534368, 0xce534369,
    0xce534373, 0xce534374, 0xce536351, 0xce536352, 0xce536353, 0xce536354, 0xce536355, 0xce536356,
    0xce536357, 0xce536358, 0xce536359, 0xce53635a, 0xce53635b, 0xce53635c, 0xce53635d, 0xce53635e,
    0xce53635f, 0xce536360, 0xce5363b4, 0xce5363b5, 0xd5a0db00,
];

/// Builds the database that trusts `authority` for servers; `None` if that is not a certificate, or
/// too large.
pub(crate) fn database(authority: &CertificateDer<'_>) -> Option<Database> {
    let (_, parsed) = X509Certificate::from_der(authority).ok()?;
    let (issuer, subject) = (parsed.issuer().as_raw(), parsed.subject().as_raw());
    let raw_serial = parsed.raw_serial();
    // NSS compares the whole DER element.
    let serial =
        [&[0x02, u8::try_from(raw_serial.len()).ok().filter(|length| *length < 128)?], raw_serial]
            .concat();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, authority);

    let certificate = row(&[
        (CLASS, &CLASS_CERTIFICATE),
        (TOKEN, &[1]),
        (PRIVATE, &[0]),
        (NAME, LABEL),
        (VALUE, authority),
        (CERTIFICATE_TYPE, &X_509),
        (ISSUER, issuer),
        (SERIAL_NUMBER, &serial),
        (SUBJECT, subject),
        (ID, hash.as_ref()),
        (MODIFIABLE, &[1]),
    ]);
    let trust = row(&[
        (CLASS, &CLASS_TRUST),
        (TOKEN, &[1]),
        (PRIVATE, &[0]),
        (NAME, NULL),
        (ISSUER, issuer),
        (SERIAL_NUMBER, &serial),
        (MODIFIABLE, &[1]),
        (TRUST_SERVER_AUTH, &TRUSTED_DELEGATOR),
        (TRUST_CLIENT_AUTH, &MUST_VERIFY),
        (TRUST_CODE_SIGNING, &MUST_VERIFY),
        (TRUST_EMAIL_PROTECTION, &MUST_VERIFY),
        (TRUST_STEP_UP_APPROVED, &[0]),
        (CERT_SHA1_HASH, hash.as_ref()),
    ]);
    let (public, private) = (table("nssPublic"), table("nssPrivate"));
    let schema = [sqlite::table("nssPublic", 2, &public)];
    let cert9 = sqlite::file(&[Page::table(&schema), Page::table(&[certificate, trust])])?;
    let metadata =
        "CREATE TABLE metaData (id PRIMARY KEY UNIQUE ON CONFLICT REPLACE, item1, item2)";
    let schema = [
        sqlite::table("nssPrivate", 2, &private),
        sqlite::table("metaData", 3, metadata),
        sqlite::index("sqlite_autoindex_metaData_1", "metaData", 4),
    ];
    let key4 = sqlite::file(&[
        Page::table(&schema),
        Page::table(&[]),
        Page::table(&[]),
        Page::empty_index(),
    ])?;
    Some(Database { cert9, key4 })
}

/// The statement that creates an object table. NSS declares the key differently, but accepts this
/// form, which needs no index.
fn table(name: &str) -> String {
    let columns: String = ATTRIBUTES.iter().map(|attribute| format!(", a{attribute:x}")).collect();
    format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY{columns})")
}

/// An object with these attributes. The key is the row number, so its column is null (SQLite's file
/// format, 2.3).
fn row<'a>(given: &[(u32, &'a [u8])]) -> Vec<Value<'a>> {
    let value = |wanted: &u32| {
        let found = given.iter().find(|(attribute, _)| attribute == wanted);
        found.map_or(Value::Null, |(_, value)| Value::Blob(value))
    };
    std::iter::once(Value::Null).chain(ATTRIBUTES.iter().map(value)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn authority() -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&key).unwrap().into()
    }

    #[test]
    fn every_attribute_has_a_column() {
        let own = [
            CLASS,
            NAME,
            VALUE,
            ISSUER,
            SUBJECT,
            ID,
            MODIFIABLE,
            TRUST_SERVER_AUTH,
            CERT_SHA1_HASH,
        ];
        assert!(own.iter().all(|attribute| ATTRIBUTES.contains(attribute)));
    }

    #[test]
    fn sqlite_finds_the_files_sound() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(&authority()).unwrap();
        let program = "import sqlite3, sys\ndb = \
                       sqlite3.connect(sys.argv[1])\nprint(db.execute('pragma \
                       integrity_check').fetchone()[0], end=' ')\nprint(*(db.execute('select \
                       count(*) from ' + name).fetchone()[0] for name in sys.argv[2:]))";
        for (name, content, tables, expected) in [
            ("cert9.db", database.cert9, &["nssPublic"][..], "ok 2"),
            ("key4.db", database.key4, &["nssPrivate", "metaData"], "ok 0 0"),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            let mut python = Command::new("/usr/bin/python3");
            let output = python.args(["-c", program]).arg(path).args(tables).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{output:?}");
        }
    }

    #[test]
    fn nss_takes_the_authority_for_one_of_servers() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(&authority()).unwrap();
        std::fs::write(directory.path().join("cert9.db"), database.cert9).unwrap();
        std::fs::write(directory.path().join("key4.db"), database.key4).unwrap();
        let place = format!("sql:{}", directory.path().display());
        let label = String::from_utf8_lossy(LABEL).into_owned();
        let listed = Command::new("certutil").args(["-L", "-d", &place]).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let line = text
            .lines()
            .find(|line| line.starts_with(&label))
            .unwrap_or_else(|| panic!("{listed:?}"));
        assert_eq!(line[label.len()..].trim(), "C,,", "{text}");
        let verify = ["-V", "-u", "L", "-n", &label, "-d", &place];
        let verified = Command::new("certutil").args(verify).output().unwrap();
        assert!(verified.status.success(), "{verified:?}");
    }

    #[test]
    fn what_is_no_certificate_makes_no_database() {
        assert!(database(&CertificateDer::from(vec![0x30, 0x00])).is_none());
    }
}
