//! A client that does not accept the certificate it is shown: what it said, and what would help.

use interceptor_policy::Host;
use rustls::CipherSuite;

use crate::proxy::warned::Warned;

/// Says that a client did not accept the certificate for `host`: with an alert; or, as it seems,
/// without, where it closed after the handshake and asked nothing. Once for each kind of client.
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
            "a client does not accept the sandbox's certificate authority: {remedy}"
        ),
        None => tracing::warn!(
            sandbox,
            %host,
            "a client closed when it had seen the certificate, and asked nothing; if it complains about \
             that, it does not accept the sandbox's certificate authority: {remedy}"
        ),
    }
}

/// What a ClientHello tells of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// It sends values that nobody knows (RFC 8701), as Chromium's library does.
    Greases,
    /// Node.js sets its own order of cipher suites.
    Node,
    /// Python's `ssl` sets its own choice of them.
    Python,
    /// GnuTLS alone offers `TLS_AES_128_CCM_SHA256` unasked.
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

    /// Whether a client of this kind may refuse the certificate without an alert. Chromium's sends
    /// one, and opens connections ahead that it does not need.
    pub(super) fn closes_without_alert(self) -> bool {
        self != Client::Greases
    }
}

/// What would make the client trust: its runtime and variable, as far as they can be told.
fn remedy(alert: &str, client: Client) -> &'static str {
    match (client, alert) {
        (Client::Greases, _) => {
            "it looks like a Chromium browser, which trusts the NSS database of its user's home \
             (`certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n interceptor -i \"$SSL_CERT_FILE\"`)"
        }
        (Client::Node, _) => {
            "it looks like Node.js, which reads `NODE_EXTRA_CA_CERTS` when it starts; if that is \
             set inside, the program brings roots of its own (an option `ca`): add the file there, \
             or give the host to `network.passthrough`"
        }
        (Client::Python, _) => {
            "it looks like Python, whose `ssl` reads `SSL_CERT_FILE` and whose requests reads \
             `REQUESTS_CA_BUNDLE`; if they are set inside, the program brings roots of its own \
             (often certifi's): name the file by its own option, or give the host to \
             `network.passthrough`"
        }
        (Client::GnuTls, _) => {
            "it looks like a program with GnuTLS (wget, git), which reads the system's bundle; \
             give it the file that `SSL_CERT_FILE` names (wget: `--ca-certificate`, git: \
             `GIT_SSL_CAINFO`), or the host to `network.passthrough`"
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
             them inside, with `serve` and `attach` set them from the `env` of the API's answer; a \
             client with roots of its own needs its own option, a base URL, or the host in \
             `network.passthrough`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_by_the_cipher_suites_that_it_offers() {
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
