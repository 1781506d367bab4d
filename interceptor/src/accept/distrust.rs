//! A client that does not accept the certificate it is shown: what it said, and what would help.

use std::io;

use interceptor_policy::Host;
use rustls::{AlertDescription, CipherSuite};

use crate::proxy::warned::Warned;

/// Says that a client did not accept the certificate for `host`.
pub(super) fn warn(warned: &Warned, sandbox: &str, host: &Host, alert: &'static str, client: Client) {
    if warned.is_first(host) {
        tracing::warn!(
            sandbox,
            %host,
            alert,
            "a client does not accept the sandbox's certificate authority: {}",
            remedy(alert, client)
        );
    }
}

/// What a ClientHello tells of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// It sends values that nobody knows (RFC 8701), as Chromium's library does.
    Greases,
    /// Nothing.
    Unknown,
}

impl Client {
    pub(super) fn of(suites: &[CipherSuite]) -> Client {
        let greases = |suite: &CipherSuite| {
            let [high, low] = u16::from(*suite).to_be_bytes();
            high == low && low & 0x0f == 0x0a
        };
        if suites.iter().any(greases) { Client::Greases } else { Client::Unknown }
    }
}

/// The alert by which a client refused the certificate (RFC 8446 section 6.2), if that is how a
/// handshake ended.
pub(super) fn alert(error: &io::Error) -> Option<&'static str> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = tls else { return None };
    Some(match alert {
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::BadCertificateStatusResponse => "bad_certificate_status_response",
        _ => return None,
    })
}

/// What would make the client trust: its runtime and variable, as far as they can be told.
fn remedy(alert: &str, client: Client) -> &'static str {
    match (client, alert) {
        (Client::Greases, _) => {
            "it looks like a Chromium browser, which trusts the NSS database of its user's home \
             (`certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n interceptor -i \"$SSL_CERT_FILE\"`)"
        }
        (_, "bad_certificate") => {
            "it looks like a Go program, which reads `SSL_CERT_FILE`; if that is set inside, the \
             program brings roots of its own: name them by its own option, or give the host to \
             `network.passthrough`"
        }
        (_, "certificate_unknown") => {
            "it looks like a Java program, which reads the trust store that `JAVA_TOOL_OPTIONS` \
             names; if that is set inside, the program brings a trust store of its own: import the \
             certificate there, or give the host to `network.passthrough`"
        }
        _ => {
            "the usual variables are `SSL_CERT_FILE` (OpenSSL, Python, Ruby, Rust), \
             `REQUESTS_CA_BUNDLE` (Python's requests), `NODE_EXTRA_CA_CERTS` (Node.js), \
             `CURL_CA_BUNDLE` (curl) and `GIT_SSL_CAINFO` (git); `run` and the container hook set \
             them inside, with `serve` and `attach` set them from the `env` of the API's answer; a client with roots of its own needs its own \
             option, a base URL, or the host in `network.passthrough`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(description: AlertDescription) -> Option<&'static str> {
        let error = rustls::Error::AlertReceived(description);
        alert(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn only_alerts_about_the_certificate_are_a_refusal_of_it() {
        assert_eq!(received(AlertDescription::UnknownCA), Some("unknown_ca"));
        assert_eq!(received(AlertDescription::CertificateUnknown), Some("certificate_unknown"));
        assert_eq!(received(AlertDescription::HandshakeFailure), None);
        assert_eq!(received(AlertDescription::CloseNotify), None);
        assert_eq!(alert(&io::ErrorKind::UnexpectedEof.into()), None);
    }

    #[test]
    fn a_client_that_greases_is_told_from_one_that_does_not() {
        let plain = [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384];
        assert_eq!(Client::of(&plain), Client::Unknown);
        assert_eq!(Client::of(&[CipherSuite::from(0x3a3a), plain[0]]), Client::Greases);
        assert_eq!(Client::of(&[CipherSuite::from(0x3a4a)]), Client::Unknown);
    }

    #[test]
    fn every_remedy_names_something_to_set() {
        for client in [Client::Greases, Client::Unknown] {
            for alert in ["unknown_ca", "bad_certificate", "certificate_unknown", "access_denied"] {
                assert!(remedy(alert, client).contains('`'));
            }
        }
    }
}
