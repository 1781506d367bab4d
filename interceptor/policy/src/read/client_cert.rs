//! Reads a client certificate: where the certificate and its private key are.

use super::super::credential::{KeySource, LiteralKey};
use super::super::document::ClientCertDocument;
use super::super::json::Node;
use super::{CLIENT_CERT, Reader};

impl Reader {
    pub(super) fn client_cert(&mut self, node: &Node<'_>) -> Option<ClientCertDocument> {
        let known = self.errors.len();
        let [certificate, key] = self.fields(node, "`client_cert`", CLIENT_CERT)?;
        if (certificate.is_none() || key.is_none()) && self.errors.len() == known {
            self.error(
                node,
                "`client_cert` is {\"certificate\": SOURCE, \"key\": SOURCE}: a certificate is \
                 presented with its private key",
            );
        }
        let certificate =
            certificate.and_then(|node| self.secret(&node, "a certificate", Reader::literal_pem));
        let key = key.and_then(|node| self.secret(&node, "a private key", Reader::literal_pem));
        Some(ClientCertDocument { certificate: certificate?, key: key? })
    }

    /// Reports what a credential with a certificate cannot have: what only requests carry, if it
    /// has no key for them, and plain HTTP, in which no certificate is presented.
    pub(super) fn fits_certificate(
        &mut self,
        has_key: bool,
        inject: Option<&Node<'_>>,
        plaintext: Option<&Node<'_>>,
    ) {
        if let Some(node) = inject.filter(|_| !has_key) {
            self.error(node, "`inject` says how requests carry a `key`, and there is none");
        }
        if let Some(node) = plaintext.filter(|node| node.bool() == Some(true)) {
            self.error(node, "`allow_plaintext` does not go with `client_cert`, which needs TLS");
        }
    }

    /// Text that a certificate or a private key may be.
    fn literal_pem(&mut self, node: &Node<'_>) -> Option<KeySource> {
        let text = node.string();
        match text.as_deref().map(String::as_str) {
            Some(text) if text.contains("-----BEGIN ") => {
                Some(KeySource::Literal(LiteralKey::new(text.to_owned())))
            }
            _ => {
                self.error(node, "this is not PEM: a certificate or key begins with `-----BEGIN`");
                None
            }
        }
    }
}
