//! Reads what concerns AWS: where its keys are, and the scopes that an endpoint rule names.

use super::super::aws::{AwsKeys, AwsScopes};
use super::super::credential::{KeySource, Prints};
use super::super::document::CredentialDocument;
use super::super::json::Node;
use super::fetched::has_one;
use super::{AWS, EXEC, Reader};

impl Reader {
    /// `{"aws": …}`: the keys of an account, with which requests are signed.
    pub(super) fn aws(&mut self, node: &Node<'_>) -> Option<KeySource> {
        self.locate(node);
        let [inner] = self.fields(node, "a key for AWS", ["aws"])?;
        let inner = inner?;
        if has_one(&inner, &EXEC) && !has_one(&inner, &AWS[..3]) {
            return self.program_source(&inner, Prints::AwsKeys).map(KeySource::Exec);
        }
        let known = self.errors.len();
        let [id, secret, token, exec] = self.fields(&inner, "`aws`", AWS)?;
        if exec.is_some() {
            self.error(&inner, "give the keys themselves, or `exec`, which prints them: not both");
            return None;
        }
        let (Some(id), Some(secret)) = (id, secret) else {
            if self.errors.len() == known {
                self.error(
                    &inner,
                    "`aws` has `access_key_id` and `secret_access_key`, and `session_token` with \
                     temporary keys; or `exec`, a program that prints them",
                );
            }
            return None;
        };
        let id = self.secret(&id, "`access_key_id`", Reader::literal_key);
        let secret = self.secret(&secret, "`secret_access_key`", Reader::literal_key);
        let token = match token {
            Some(token) => Some(self.secret(&token, "`session_token`", Reader::literal_key)?),
            None => None,
        };
        let keys = AwsKeys { access_key_id: id?, secret_access_key: secret?, session_token: token };
        Some(KeySource::Aws(Box::new(keys)))
    }

    /// What a credential for AWS cannot have.
    pub(super) fn check_aws(&mut self, node: &Node<'_>, credential: &CredentialDocument) {
        if credential.inject.is_some() {
            self.error(
                node,
                "`inject` has no meaning here: requests are signed with the keys, which never \
                 stand in them",
            );
        }
        if credential.env.as_ref().is_some_and(|names| names.len() != 2) {
            self.error(
                node,
                "`env` of a credential for AWS names two variables: the one for the access key's \
                 id, then the one for the secret access key",
            );
        }
    }

    /// `aws` of an endpoint rule. `None` if it is invalid, because a rule without it would permit
    /// more.
    pub(super) fn aws_scopes(&mut self, node: &Node<'_>) -> Option<AwsScopes> {
        let known = self.errors.len();
        let [services, regions] = self.fields(node, "`aws`", ["services", "regions"])?;
        if services.is_none() && regions.is_none() && self.errors.len() == known {
            self.error(node, "`aws` of a rule names `services`, `regions` or both");
        }
        let services = services.map(|node| self.scope_names(&node, "`services`"));
        let regions = regions.map(|node| self.scope_names(&node, "`regions`"));
        (self.errors.len() == known).then_some(AwsScopes { services, regions })
    }

    fn scope_names(&mut self, node: &Node<'_>, what: &str) -> Vec<String> {
        let elements = self.elements(node, what).unwrap_or_default();
        if elements.is_empty() {
            self.error(node, "the list is empty and the rule would match nothing; leave it out");
        }
        let mut names = Vec::new();
        for node in elements {
            let Some(name) = self.string(&node, "a name") else { continue };
            if AwsScopes::is_name(&name) {
                names.push(name);
            } else {
                self.error(
                    &node,
                    "this is a name as signatures have it, such as `s3` or `eu-central-1`: \
                     lower-case letters, digits and `-`",
                );
            }
        }
        names
    }
}
