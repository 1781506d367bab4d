//! Reads where Vault or OpenBao keeps a key, and as what it is asked.

use std::path::PathBuf;

use super::super::credential::ExecSource;
use super::super::fetched::FetchedSource;
use super::super::json::Node;
use super::super::vault::{VaultAuth, VaultSource};
use super::Reader;

const VAULT: [&str; 7] =
    ["address", "path", "field", "auth", "ca", "timeout_seconds", "ttl_seconds"];
const AUTH: [&str; 2] = ["token", "approle"];
const APPROLE: [&str; 3] = ["role_id", "secret_id", "wrapped"];

impl Reader {
    pub(super) fn vault(&mut self, node: &Node<'_>) -> Option<VaultSource> {
        let [address, path, field, auth, ca, timeout, ttl] = self.fields(node, "`vault`", VAULT)?;
        let address = self.service_url(node, address.as_ref(), "address");
        let path = self.required(node, path.as_ref(), "path");
        let path = path.and_then(|node| self.vault_path(&node));
        let field = self.required(node, field.as_ref(), "field");
        let field = field.and_then(|node| self.text(&node, "`field`"));
        let auth = self.required(node, auth.as_ref(), "auth");
        let auth = auth.and_then(|node| self.vault_auth(&node));
        let ca = ca.and_then(|node| self.text(&node, "`ca`")).map(PathBuf::from);
        let timeout = self.seconds(timeout, &ExecSource::TIMEOUTS, FetchedSource::TIMEOUT);
        let ttl = self.seconds(ttl, &ExecSource::TTLS, ExecSource::TTL);
        Some(VaultSource {
            address: address?,
            path: path?,
            field: field?,
            auth: auth?,
            ca,
            timeout: timeout?,
            ttl: ttl?,
        })
    }

    /// A path that has one reading, so that it is the one that is asked for.
    fn vault_path(&mut self, node: &Node<'_>) -> Option<String> {
        let text = self.text(node, "`path`")?;
        let trimmed = text.trim_matches('/');
        let trimmed = trimmed.strip_prefix("v1/").unwrap_or(trimmed);
        let is_plain = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@+:=".contains(&byte);
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
        };
        if !trimmed.split('/').all(is_plain) {
            self.error(
                node,
                "`path` is a path of the API, such as `secret/data/openai` (KV version 2) or \
                 `database/creds/reader`: letters, digits and `-._~@+:=` between slashes",
            );
            return None;
        }
        Some(trimmed.to_owned())
    }

    fn vault_auth(&mut self, node: &Node<'_>) -> Option<VaultAuth> {
        let known = self.errors.len();
        let [token, approle] = self.fields(node, "`auth`", AUTH)?;
        match (token, approle) {
            (Some(token), None) => Some(VaultAuth::Token(self.input(&token, "`token`")?)),
            (None, Some(node)) => {
                let [role_id, secret_id, wrapped] = self.fields(&node, "`approle`", APPROLE)?;
                let role_id = self.required(&node, role_id.as_ref(), "role_id");
                let role_id = role_id.and_then(|node| self.text(&node, "`role_id`"));
                let secret_id = self.required(&node, secret_id.as_ref(), "secret_id");
                let secret_id = secret_id.and_then(|node| self.input(&node, "`secret_id`"));
                let wrapped = wrapped.map(|node| self.bool(&node, "`wrapped`"));
                Some(VaultAuth::AppRole {
                    role_id: role_id?,
                    secret_id: secret_id?,
                    is_wrapped: wrapped.unwrap_or(Some(false))?,
                })
            }
            _ => {
                if self.errors.len() == known {
                    self.error(
                        node,
                        "`auth` is {\"token\": SOURCE} or {\"approle\": {\"role_id\": ID, \
                         \"secret_id\": SOURCE}}",
                    );
                }
                None
            }
        }
    }
}
