//! The policy's file of a run, which is edited with the rights of whoever typed the command.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::Patch;

use super::loader::{Loader, Rights};
use crate::fleet::{EditError, Fleet, Member, PolicyEdit, PolicyFiles};

/// The file of a run's policy.
pub(super) struct RunsFiles(pub(super) Arc<Loader>);

impl PolicyFiles for RunsFiles {
    fn prepare(
        &self,
        _: &Fleet,
        member: &Member,
        path: &Path,
        patch: &Patch,
    ) -> Result<PolicyEdit, EditError> {
        let is_in_force = |text: &str| member.is_of(text);
        let prepare = || PolicyEdit::prepare(path, &is_in_force, patch, &self.0.catalogue);
        let prepared = self.0.person.act(|| Ok(prepare()));
        prepared.unwrap_or_else(|cause| Err(EditError::Unreadable { path: path.to_owned(), cause }))
    }

    fn reload(&self, _: &Fleet, member: &Member, text: &str) -> Result<(), String> {
        let Some(path) = member.file() else { return Ok(()) };
        let read = |keyring: &_| self.0.file(&path, text, keyring, Rights::Person);
        member.replace(read, false).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for RunsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunsFiles")
    }
}
