//! Real keys, placeholders, and where they stand in a request.
//!
//! A [`RealKey`] exists in the proxy's memory alone, zeroized when it is dropped. The sandbox has a [`Placeholder`] for it,
//! in the variable where the service's clients look. The [`Keyring`] of a sandbox holds both, reads keys anew when their
//! files change, and says which placeholders a request presents; `http::inject` puts the real key in, `http::redact` takes
//! it out of the answer.
//!
//! A header value and a query that carry a key to the origin are the HTTP library's, which does not zeroize them; they live
//! as long as the request is being written. The process makes itself undumpable for the rest.

mod finder;
#[cfg(test)]
pub(crate) mod fixture;
mod handed;
mod key;
mod keyring;
mod placeholder;
mod presented;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use self::handed::HandedKeys;
pub use self::key::{KeyProblem, LONGEST, RealKey, SHORTEST};
pub use self::keyring::Keyring;
pub use self::placeholder::{NoRandomness, Placeholder};
pub use self::presented::Presented;
pub(crate) use self::presented::basic;
pub(crate) use self::source::read as read_key;
pub use self::source::{KeyError, Place};
