//! The policy's file of a run, which the page edits with the rights of whoever typed the command.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::Patch;
use serde_json::Value;

use super::loader::{Loader, Rights};
use crate::fleet::{EditError, Fleet, Member, PolicyEdit, Source};
use crate::page::PolicyFiles;

/// The file of a run's policy.
pub(super) struct RunsFiles(pub(super) Arc<Loader>);

impl PolicyFiles for RunsFiles {
    fn prepare(
        &self,
        _: &Fleet,
        path: &Path,
        shown: &Value,
        patch: &Patch,
    ) -> Result<PolicyEdit, EditError> {
        let prepare = || PolicyEdit::prepare(path, shown, patch, &self.0.catalogue);
        let prepared = self.0.person.act(|| Ok(prepare()));
        prepared.unwrap_or_else(|cause| Err(EditError::Unreadable { path: path.to_owned(), cause }))
    }

    fn reload(&self, _: &Fleet, member: &Member, edit: &PolicyEdit) -> Result<(), String> {
        let Source::File(path) = member.summary().source else { return Ok(()) };
        // What was written, not what a file in the sandbox's reach may say by now.
        let text = edit.strict()?;
        let read = |keyring: &_| self.0.file(&path, &text, keyring, Rights::Person);
        member.replace(read, false).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for RunsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunsFiles")
    }
}
