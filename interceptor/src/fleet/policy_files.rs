//! How an answer for good gets into the files of policies.

use std::path::Path;

use interceptor_policy::Patch;

use super::{EditError, Fleet, Member, PolicyEdit};

/// How an edit gets into a policy's file, and the file into force.
pub(crate) trait PolicyFiles: std::fmt::Debug + Send + Sync {
    /// Prepares the edit of the file that the member's policy came from, with the rights that the
    /// file's owner grants.
    ///
    /// # Errors
    /// If the file is not what it was, or may not be written.
    fn prepare(
        &self,
        fleet: &Fleet,
        member: &Member,
        path: &Path,
        patch: &Patch,
    ) -> Result<PolicyEdit, EditError>;

    /// Puts the text of an edit into force, whatever the file may say by now.
    ///
    /// # Errors
    /// Why it is not in force.
    fn reload(&self, fleet: &Fleet, member: &Member, text: &str) -> Result<(), String>;
}

/// The files of a daemon, which it writes itself.
#[derive(Debug)]
pub(crate) struct DaemonsFiles;

impl PolicyFiles for DaemonsFiles {
    fn prepare(
        &self,
        fleet: &Fleet,
        member: &Member,
        path: &Path,
        patch: &Patch,
    ) -> Result<PolicyEdit, EditError> {
        PolicyEdit::prepare(path, &|text| member.is_of(text), patch, fleet.catalogue())
    }

    fn reload(&self, fleet: &Fleet, member: &Member, text: &str) -> Result<(), String> {
        fleet.rewritten(&member.id, text).map(drop).map_err(|error| error.to_string())
    }
}
