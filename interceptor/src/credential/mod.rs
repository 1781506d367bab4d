//! Real keys, their placeholders, and finding placeholders in requests.
//!
//! A [`RealKey`] exists only in the proxy's memory and is zeroized on drop. The sandbox has a
//! [`Placeholder`] for it, in the variable that the service's clients read. A sandbox's [`Keyring`]
//! holds both, rereads keys when their files change, and finds the placeholders that a request
//! presents. `http::inject` inserts the real key, `http::redact` removes it from the response.
//!
//! The HTTP library does not zeroize the header value or query that carries a key to the origin;
//! these live until the request is written. To cover them, the process makes itself undumpable.

mod certificate;
mod changes;
mod entry;
mod files;
mod finder;
#[cfg(test)]
pub(crate) mod fixture;
mod former;
mod glance;
mod handed;
mod key;
mod keyring;
mod kin;
mod location;
mod outward;
mod pem;
mod placeholder;
mod presented;
mod readers;
mod seed;
mod source;
mod sources;
#[cfg(test)]
mod tests;
mod told;
mod watch;

pub(crate) use self::handed::HandedKeys;
pub use self::key::{KeyProblem, LONGEST, RealKey, SHORTEST};
pub use self::keyring::Keyring;
pub use self::location::KeyLocation;
pub(crate) use self::outward::{Gateway, no_proxy_for, proxy_for};
pub use self::pem::CertificateProblem;
pub(crate) use self::pem::Identity;
pub use self::placeholder::{NoRandomness, Placeholder};
pub use self::presented::Presented;
pub(crate) use self::presented::basic;
pub(crate) use self::seed::{SECRET, Seed};
pub use self::source::KeyError;
pub(crate) use self::source::{CREDENTIALS_DIRECTORY, Means};
pub use self::sources::SourceProblem;
pub(crate) use self::sources::{
    Asks, Household, Kinds, MOST_PRINTED, Outbound, Programs, Runs, Sources, StateWork, keep_time,
    measured,
};
pub(crate) use self::watch::KeyWatch;
