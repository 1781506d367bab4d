//! Which credentials govern a host.
//!
//! - `https`: the host is one of the credential's and the port is 443, or the one that `hosts`
//!   names. Other ports of the host are not governed, and a placeholder sent there is misuse.
//! - `http`: the host is one of the credential's, whatever the port: the request is refused, unless
//!   the credential permits plaintext and the port is 80, or the one that `hosts` names.
//!
//! Embedded addresses do not count: a credential for an IPv4 address does not govern an IPv6
//! address that embeds it (NAT64), because another party may answer there.

use smallvec::SmallVec;

use super::credential::Credential;
use super::decision::CredentialId;
use super::host::Host;
use super::host_map::HostMap;
use super::request::Scheme;

/// One host of one credential.
#[derive(Clone, Copy, Debug)]
struct Claim {
    id: CredentialId,
    port: Option<u16>,
    allow_plaintext: bool,
}

/// The credentials that govern a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Governing {
    /// Those whose host it is; for `https`, at this port.
    pub(super) all: Few,
    /// Those of them whose key may be sent by this scheme and port.
    pub(super) usable: Few,
}

/// Credentials in the order of the document. Nearly every host has one at most, which takes no
/// memory of its own.
type Few = SmallVec<[CredentialId; 2]>;

/// The hosts of all credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Governance {
    claims: HostMap<Vec<Claim>>,
}

impl Governance {
    pub(super) fn new(credentials: &[Credential]) -> Governance {
        let mut governance = Governance::default();
        for (index, credential) in credentials.iter().enumerate() {
            for host in &credential.hosts {
                let claim = Claim {
                    id: CredentialId(index),
                    port: host.port,
                    allow_plaintext: credential.allow_plaintext,
                };
                governance.claims.entry(&host.target).push(claim);
            }
        }
        governance
    }

    /// The credentials that govern a request, in the order of the document.
    pub(super) fn of(&self, scheme: Scheme, host: &Host, port: u16) -> Governing {
        let mut governing = Governing::default();
        self.claims.matching_exactly(host, |claims| {
            for claim in claims {
                let at_port = claim.port.unwrap_or(scheme.default_port()) == port;
                let (governs, usable) = match scheme {
                    Scheme::Https => (at_port, at_port),
                    Scheme::Http => (true, at_port && claim.allow_plaintext),
                };
                if governs && !governing.all.contains(&claim.id) {
                    governing.all.push(claim.id);
                }
                if usable && !governing.usable.contains(&claim.id) {
                    governing.usable.push(claim.id);
                }
            }
        });
        governing.all.sort_unstable();
        governing.usable.sort_unstable();
        governing
    }

    /// Whether any credential names the host.
    pub(super) fn names(&self, host: &Host) -> bool {
        let mut named = false;
        self.claims.matching_exactly(host, |_| named = true);
        named
    }
}
