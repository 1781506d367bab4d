//! One sandbox in user space: everything between its listeners and its origins, owned and dropped
//! together.

mod approvals;
pub(crate) mod asking;
pub(crate) mod budget;
pub(crate) mod echoes;
mod handed;
mod identities;
pub(crate) mod live;
pub(crate) mod pace;
pub(crate) mod quota;
mod refusals;
mod road;
mod rules;
mod runtime;
mod sandbox;
mod serving;
pub(crate) mod tidy;
pub(crate) mod warned;

pub use handed::{HandedNames, HandedSandbox};
pub use rules::Rules;
pub use runtime::{Runtime, RuntimeOptions};
pub use sandbox::{ProxyError, Sandbox};
pub use serving::{Accept, Serving};
