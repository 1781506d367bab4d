//! Requests that are signed for AWS: where the keys come from, and what a signature is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Policy;
use super::address::Views;
use super::credential::KeySource;

/// Where containers find their keys.
pub const AWS_CONTAINER_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);

/// The addresses besides that of base URLs at which AWS's clients look for keys: of containers, and
/// by IPv6 of instances. A sandbox with keys for AWS reaches none of the host's own.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(AWS_CONTAINER_ADDRESS),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

impl Policy {
    /// Whether an address is one at which keys for AWS are found, and must not be those of the
    /// host.
    pub(super) fn is_metadata(&self, address: IpAddr) -> bool {
        let is_one = || Views::of(address).iter().any(|view| METADATA.contains(&view));
        self.credentials.iter().any(|credential| credential.key.is_aws()) && is_one()
    }
}

/// The parts of AWS credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    /// The access key's id.
    pub access_key_id: KeySource,
    /// The secret access key.
    pub secret_access_key: KeySource,
    /// The session token, if the keys are temporary.
    pub session_token: Option<KeySource>,
}

impl AwsKeys {
    /// The fields that hold the parts.
    pub const FIELDS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];

    /// The parts, each with the name of its field.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &KeySource)> {
        let token = self.session_token.as_ref().map(|token| ("session_token", token));
        [("access_key_id", &self.access_key_id), ("secret_access_key", &self.secret_access_key)]
            .into_iter()
            .chain(token)
    }
}

/// What a signature is for: the service and the region of its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AwsScope<'a> {
    /// The service, such as `s3`.
    pub service: &'a str,
    /// The region, such as `eu-central-1`.
    pub region: &'a str,
}

/// The scopes that an endpoint rule names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AwsScopes {
    /// The services; `None` for any.
    pub services: Option<Vec<String>>,
    /// The regions; `None` for any.
    pub regions: Option<Vec<String>>,
}

impl AwsScopes {
    /// The longest name of a service or a region.
    pub const LONGEST: usize = 64;

    /// Whether a text can be a service or a region: lower-case letters, digits and `-`.
    pub fn is_name(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !name.is_empty() && name.len() <= AwsScopes::LONGEST && name.bytes().all(plain)
    }

    /// Whether a signature for this scope is named. A request without one is not.
    pub fn admit(&self, scope: Option<AwsScope<'_>>) -> bool {
        scope.is_some_and(|scope| self.missing(scope).is_none())
    }

    /// The list that does not name this scope, and what it lacks.
    pub fn missing<'a>(&self, scope: AwsScope<'a>) -> Option<(&'static str, &'a str)> {
        let lacks = |list: &Option<Vec<String>>, name: &str| {
            list.as_ref().is_some_and(|list| list.iter().all(|known| known != name))
        };
        if lacks(&self.services, scope.service) {
            Some(("services", scope.service))
        } else if lacks(&self.regions, scope.region) {
            Some(("regions", scope.region))
        } else {
            None
        }
    }
}
