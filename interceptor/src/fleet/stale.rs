//! Programs that killed daemons and `attach` processes left pinned on cgroups, where they refuse
//! everything. A starting daemon adopts them, keeps them closed or removes them, and reports which.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::IoContext;
use super::{FleetError, Pins};
use crate::kernel;
use crate::sandbox::cgroup;

/// Maximum cgroup depth searched.
const DEEPEST: usize = 64;

/// Which leftover sandboxes to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Adopt {
    /// All.
    #[default]
    All,
    /// Only those the configuration names.
    None,
    /// Those with these ids.
    Only(Vec<String>),
}

impl TryFrom<String> for Adopt {
    type Error = String;

    fn try_from(text: String) -> Result<Adopt, String> {
        text.parse()
    }
}

impl FromStr for Adopt {
    type Err = String;

    fn from_str(text: &str) -> Result<Adopt, String> {
        match text {
            "all" => Ok(Adopt::All),
            "none" => Ok(Adopt::None),
            ids => {
                let ids: Vec<String> = ids.split(',').map(str::to_owned).collect();
                match ids.iter().find_map(|id| super::check_id(id).err()) {
                    Some(error) => {
                        Err(format!("not `all`, `none` or a list of sandbox ids: {error}"))
                    }
                    None => Ok(Adopt::Only(ids)),
                }
            }
        }
    }
}

/// The outcome for one leftover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The configuration has a sandbox for its cgroup, which replaces it without a gap.
    Adopted,
    /// Unchanged: it refuses everything.
    Closed,
    /// Not kept: nothing confines its processes any more.
    Removed,
    /// Removed, because its cgroup no longer exists.
    Gone,
}

/// A sandbox left by a dead process.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    /// Its id.
    pub(crate) id: String,
    /// Its cgroup's directory, or the id if that is gone.
    pub(crate) cgroup: PathBuf,
    /// The outcome.
    pub(crate) fate: Disposition,
}

impl Stale {
    /// The event name in its lifecycle record.
    pub(crate) fn event(&self) -> &'static str {
        match self.fate {
            Disposition::Adopted => "sandbox_adopting",
            Disposition::Closed => "sandbox_kept_closed",
            Disposition::Removed | Disposition::Gone => "sandbox_removed",
        }
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stale { id, cgroup, fate } = self;
        let place = cgroup.display();
        let left = "left by a crashed daemon";
        match fate {
            Disposition::Adopted => write!(
                formatter,
                "adopted sandbox {id} on {place}, {left}; it has a new CA and new placeholders, \
                 so restart what loaded the old ones"
            ),
            Disposition::Closed => write!(
                formatter,
                "sandbox {id} on {place}, {left}, stays closed: everything it sends is refused; \
                 create a sandbox on this cgroup to open it, or remove it with --adopt none"
            ),
            Disposition::Removed => write!(
                formatter,
                "removed sandbox {id} on {place}, {left}, because --adopt does not keep it: its \
                 processes are no longer confined"
            ),
            Disposition::Gone => {
                write!(formatter, "cleaned up sandbox {id} {left} (its cgroup no longer exists)")
            }
        }
    }
}

/// Examines everything pinned and removes what is not kept. Programs on `configured` cgroups stay
/// until the new sandbox replaces them. Does not touch what living processes hold. `trust` is the
/// root of the trust directories.
///
/// # Errors
/// If bpffs or the cgroups cannot be read, or a pin cannot be removed.
pub(crate) fn sweep(
    adopt: &Adopt,
    configured: &HashSet<u64>,
    trust: &Path,
) -> Result<Vec<Stale>, FleetError> {
    let root = kernel::bpffs()?.join("interceptor");
    let Ok(entries) = fs::read_dir(&root) else { return Ok(Vec::new()) };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let cgroups = if numbers.is_empty() { HashMap::new() } else { cgroups()? };
    let mut found = Vec::new();
    for number in numbers {
        let pins = match Pins::of(number) {
            Ok(pins) => pins,
            Err(FleetError::Taken(_)) => continue,
            Err(error) => return Err(error),
        };
        for directory in &pins.stale {
            let id = Pins::id_of(directory);
            let fate = match cgroups.get(&number) {
                None => Disposition::Gone,
                Some(_) if configured.contains(&number) => Disposition::Adopted,
                Some(_) if adopt.keeps(&id) => Disposition::Closed,
                Some(_) => Disposition::Removed,
            };
            if matches!(fate, Disposition::Gone | Disposition::Removed) {
                kernel::remove_pins(directory)?;
                super::trust::remove(&trust.join(number.to_string()));
            }
            let cgroup = cgroups.get(&number).cloned().unwrap_or_else(|| number.to_string().into());
            found.push(Stale { id, cgroup, fate });
        }
    }
    Ok(found)
}

impl Adopt {
    fn keeps(&self, id: &str) -> bool {
        match self {
            Adopt::All => true,
            Adopt::None => false,
            Adopt::Only(ids) => ids.iter().any(|kept| kept == id),
        }
    }
}

/// Every cgroup by its id; skips those that vanish meanwhile.
fn cgroups() -> Result<HashMap<u64, PathBuf>, FleetError> {
    let mount = cgroup::mount_point()?;
    let mut found = HashMap::new();
    let mut open = vec![(mount.clone(), 0)];
    fs::metadata(&mount).context(|| format!("cannot examine {}", mount.display()))?;
    while let Some((directory, depth)) = open.pop() {
        let Ok(metadata) = fs::metadata(&directory) else { continue };
        found.insert(metadata.ino(), directory.clone());
        if depth == DEEPEST {
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_adopted_is_all_none_or_ids() {
        assert_eq!("all".parse(), Ok(Adopt::All));
        assert_eq!("none".parse(), Ok(Adopt::None));
        assert_eq!("a,b-1".parse(), Ok(Adopt::Only(vec!["a".into(), "b-1".into()])));
        for text in ["", "a,", "a b", "../x", "a,,b"] {
            assert!(text.parse::<Adopt>().is_err(), "{text}");
        }
    }
}
