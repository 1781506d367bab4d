//! Policies and keys that change while their sandboxes run.

use std::sync::Arc;
use std::time::Duration;

use super::{Fleet, FleetError, LoadedPolicy, Member, Source};
use crate::files;

/// How long a reload waits for the files of one sandbox.
const READ_WITHIN: Duration = Duration::from_secs(5);

impl Fleet {
    /// Replaces a policy with the text that a user gave; placeholders stay. Blocks briefly.
    ///
    /// # Errors
    /// [`FleetError::Unknown`], or if the policy is invalid or the kernel refuses it; nothing has
    /// changed then.
    pub(crate) fn replace(
        &self,
        id: &str,
        text: &str,
        close: bool,
        uid: u32,
    ) -> Result<Arc<Member>, FleetError> {
        let member = self.get(id)?;
        self.outlive_predecessor(close);
        let compiling = self.compiling();
        member.replace(
            |keyring| match &self.options.given {
                Some(given) => given.read(text, keyring, uid),
                None => LoadedPolicy::read(text, &[], Source::Given, compiling, Some(keyring)),
            },
            close,
        )?;
        tracing::info!(sandbox = %id, close, "policy replaced");
        Ok(member)
    }

    /// Reads the policy file of one sandbox again; nothing, if its policy has none. Blocks.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`]; nothing has changed then.
    pub(crate) fn reread(&self, id: &str) -> Result<Arc<Member>, FleetError> {
        let member = self.get(id)?;
        if let Some(path) = member.file() {
            self.outlive_predecessor(false);
            member.replace(|keyring| self.rules_of_file(&path, Some(keyring)), false)?;
            tracing::info!(sandbox = %id, file = %path.display(), "policy reloaded");
        }
        Ok(member)
    }

    /// Puts the text into force that was written into the policy file of one sandbox, comments and
    /// all; nothing, if its policy has none. Blocks.
    ///
    /// # Errors
    /// As [`LoadedPolicy::read`]; nothing has changed then.
    pub(crate) fn rewritten(&self, id: &str, text: &str) -> Result<Arc<Member>, FleetError> {
        let member = self.get(id)?;
        if let Some(path) = member.file() {
            self.outlive_predecessor(false);
            member.replace(|keyring| self.rules_of_text(&path, text, Some(keyring)), false)?;
            tracing::info!(sandbox = %id, file = %path.display(), "policy reloaded");
        }
        Ok(member)
    }

    /// Re-reads policy files and key files. Errors are logged and change nothing. A slow sandbox
    /// does not delay the others for long.
    pub(crate) fn reload(self: &Arc<Self>) {
        for member in self.list() {
            let (fleet, of) = (self.clone(), member.clone());
            if files::within(READ_WITHIN, move || fleet.reload_one(&of)).is_none() {
                tracing::error!(
                    sandbox = %member.id,
                    "reading its files takes too long; keeping the previous policy and keys until \
                     they arrive"
                );
            }
        }
    }

    fn reload_one(&self, member: &Member) {
        if let Some(path) = member.file() {
            let read = member.replace(|keyring| self.rules_of_file(&path, Some(keyring)), false);
            match read {
                Ok(()) => {
                    tracing::info!(sandbox = %member.id, file = %path.display(), "policy reloaded")
                }
                Err(error) => {
                    tracing::error!(
                        sandbox = %member.id,
                        file = %path.display(),
                        %error,
                        "cannot reload the policy; keeping the previous one"
                    );
                }
            }
        }
        for error in member.sandbox.keyring().reload() {
            tracing::error!(
                sandbox = %member.id,
                %error,
                "cannot reload a key file; keeping the previous key"
            );
        }
    }
}
