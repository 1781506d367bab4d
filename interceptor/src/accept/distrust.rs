//! A client that rejects the certificate it is shown: how it said so, and what would help.

use interceptor_policy::Host;
use rustls::CipherSuite;

use crate::proxy::warned::Warned;

/// Warns that a client rejected the certificate for `host`: with an alert or, apparently, by
/// closing after the handshake without a request. Warns once per host and kind of client.
pub(super) fn warn(
    warned: &Warned,
    sandbox: &str,
    host: &Host,
    alert: Option<&'static str>,
    client: Client,
) {
    if !warned.is_first(host, client.kind()) {
        return;
    }
    let remedy = remedy(alert.unwrap_or_default(), client);
    match alert {
        Some(alert) => tracing::warn!(
            sandbox,
            %host,
            alert,
            "a client does not accept the sandbox's CA: {remedy}"
        ),
        None => tracing::warn!(
            sandbox,
            %host,
            "a client closed the connection after it received the certificate; if it reports a \
             certificate error, it does not accept the sandbox's CA: {remedy}"
        ),
    }
}

/// What a ClientHello reveals about the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// Sends GREASE values (RFC 8701), as Chromium does.
    Greases,
    /// Node.js has its own order of cipher suites.
    Node,
    /// Python's `ssl` has its own selection of cipher suites.
    Python,
    /// Only GnuTLS offers `TLS_AES_128_CCM_SHA256` by default.
    GnuTls,
    /// Nothing.
    Unknown,
}

impl Client {
    pub(super) fn of(suites: &[CipherSuite]) -> Client {
        let greases = |suite: &CipherSuite| {
            let [high, low] = u16::from(*suite).to_be_bytes();
            high == low && low & 0x0f == 0x0a
        };
        if suites.iter().any(greases) {
            return Client::Greases;
        }
        let number = |at: usize| suites.get(at).map(|suite| u16::from(*suite));
        match [0, 1, 2, 3, 4].map(number) {
            [Some(0x1302), Some(0x1303), Some(0x1301), Some(0xc02f), Some(0xc02b)] => Client::Node,
            [Some(0x1302), Some(0x1303), Some(0x1301), Some(0x1304), _] => Client::GnuTls,
            [Some(0x1302), Some(0x1303), Some(0x1301), Some(0xc02c), Some(0xc030)]
                if number(5) == Some(0xc02b) =>
            {
                Client::Python
            }
            _ => Client::Unknown,
        }
    }
}

impl Client {
    /// A name for it.
    fn kind(self) -> &'static str {
        match self {
            Client::Greases => "greases",
            Client::Node => "node",
            Client::Python => "python",
            Client::GnuTls => "gnutls",
            Client::Unknown => "unknown",
        }
    }

    /// Whether such a client may reject the certificate without an alert. Chromium sends one, and
    /// opens connections in advance that it may not use.
    pub(super) fn closes_without_alert(self) -> bool {
        self != Client::Greases
    }
}

/// How to make the client trust the CA, by its runtime as far as it can be recognised.
fn remedy(alert: &str, client: Client) -> &'static str {
    match (client, alert) {
        (Client::Greases, _) => {
            "it looks like a Chromium browser, which trusts the NSS database of its user's home \
             (`certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n interceptor -i \"$SSL_CERT_FILE\"`)"
        }
        (Client::Node, _) => {
            "it looks like Node.js, which reads `NODE_EXTRA_CA_CERTS` when it starts; if that is \
             set inside, the program has its own roots (an option `ca`): add the file there, or \
             name the host in `network.passthrough`"
        }
        (Client::Python, _) => {
            "it looks like Python, whose `ssl` reads `SSL_CERT_FILE` and whose requests reads \
             `REQUESTS_CA_BUNDLE`; if they are set inside, the program has its own roots (often \
             certifi's): give it the file by its own option, or name the host in \
             `network.passthrough`"
        }
        (Client::GnuTls, _) => {
            "it looks like a program that uses GnuTLS (wget, git), which reads the system's \
             bundle; give it the file that `SSL_CERT_FILE` names (wget: `--ca-certificate`, git: \
             `GIT_SSL_CAINFO`), or name the host in `network.passthrough`"
        }
        (_, "bad_certificate") => {
            "it looks like a Go program, which reads `SSL_CERT_FILE`; if that is set inside, the \
             program has its own roots: give it the file by its own option, or name the host in \
             `network.passthrough`"
        }
        (_, "certificate_unknown") => {
            "it looks like a Java program, which reads the trust store that `JAVA_TOOL_OPTIONS` \
             names; if that is set inside, the program has its own trust store: import the \
             certificate there, or name the host in `network.passthrough`"
        }
        _ => {
            "the usual variables are `SSL_CERT_FILE` (OpenSSL, Python, Ruby, Rust), \
             `REQUESTS_CA_BUNDLE` (Python's requests), `NODE_EXTRA_CA_CERTS` (Node.js), \
             `CURL_CA_BUNDLE` (curl) and `GIT_SSL_CAINFO` (git); `run` and the container hook set \
             them inside; with `serve` and `attach`, set them from `env` in the API's answer; a \
             client with its own roots needs its own option, a base URL, or the host in \
             `network.passthrough`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_recognised_by_its_cipher_suites() {
        let client = |suites: &[u16]| {
            Client::of(&suites.iter().copied().map(CipherSuite::from).collect::<Vec<_>>())
        };
        assert_eq!(client(&[0x1301, 0x1302]), Client::Unknown);
        assert_eq!(client(&[0x3a3a, 0x1301]), Client::Greases);
        assert_eq!(client(&[0x3a4a]), Client::Unknown);
        assert_eq!(client(&[0x1302, 0x1303, 0x1301, 0xc02f, 0xc02b, 0xc030]), Client::Node);
        assert_eq!(client(&[0x1302, 0x1303, 0x1301, 0xc02c, 0xc030, 0xc02b]), Client::Python);
        assert_eq!(client(&[0x1302, 0x1303, 0x1301, 0xc02c, 0xc030, 0x009f]), Client::Unknown);
        assert_eq!(client(&[0x1302, 0x1303, 0x1301, 0x1304, 0xc02c]), Client::GnuTls);
        assert_eq!(client(&[]), Client::Unknown);
    }

    #[test]
    fn every_remedy_names_something_to_set() {
        let clients =
            [Client::Greases, Client::Node, Client::Python, Client::GnuTls, Client::Unknown];
        for client in clients {
            for alert in
                ["", "unknown_ca", "bad_certificate", "certificate_unknown", "access_denied"]
            {
                assert!(remedy(alert, client).contains('`'));
            }
        }
    }
}
