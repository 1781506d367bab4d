//! How the page writes into the files of policies.

use std::path::Path;

use interceptor_policy::Patch;
use serde_json::Value;

use crate::fleet::{EditError, Fleet, Member, PolicyEdit};

/// How an edit gets into a policy's file, and the file into force.
pub(crate) trait PolicyFiles: std::fmt::Debug + Send + Sync {
    /// Prepares the edit, with the rights that the file's owner grants.
    ///
    /// # Errors
    /// If the file is not what it was, or may not be written.
    fn prepare(
        &self,
        fleet: &Fleet,
        path: &Path,
        shown: &Value,
        patch: &Patch,
    ) -> Result<PolicyEdit, EditError>;

    /// Puts what was written into force, not what the file may say by now.
    ///
    /// # Errors
    /// Why it is not in force.
    fn reload(&self, fleet: &Fleet, member: &Member, edit: &PolicyEdit) -> Result<(), String>;
}

/// The files of a daemon, which it writes itself.
#[derive(Debug)]
pub(crate) struct DaemonsFiles;

impl PolicyFiles for DaemonsFiles {
    fn prepare(
        &self,
        fleet: &Fleet,
        path: &Path,
        shown: &Value,
        patch: &Patch,
    ) -> Result<PolicyEdit, EditError> {
        PolicyEdit::prepare(path, shown, patch, fleet.catalogue())
    }

    fn reload(&self, fleet: &Fleet, member: &Member, edit: &PolicyEdit) -> Result<(), String> {
        let text = edit.strict()?;
        fleet.rewritten(&member.id, &text).map(drop).map_err(|error| error.to_string())
    }
}
