//! Warnings of `check` about a policy that is valid but may not do what its author meant. No lint
//! changes what the policy does.

use std::sync::LazyLock;

use serde::Deserialize;

use super::Policy;
use super::catalogue::Catalogue;
use super::compile::{hosts, overlap};
use super::credential::Form;
use super::document::{CredentialDocument, Document, Located};
use super::network_rule::{NetworkRule, Target};
use super::overlap::Targets;
use super::problem::{MAX_PROBLEMS, Problem};

mod endpoints;
mod habits;
mod upstream;

pub(super) use habits::habits;

/// A host where anybody can leave or fetch data.
struct Relay {
    target: Target,
    why: String,
}

#[derive(Deserialize)]
struct RelayEntry {
    host: String,
    why: String,
}

#[derive(Deserialize)]
struct RelayFile {
    relays: Vec<RelayEntry>,
}

static RELAYS: LazyLock<Vec<Relay>> = LazyLock::new(|| {
    // The file is embedded in this crate, and a test reads it.
    #[expect(clippy::expect_used, reason = "embedded data, read by a test")]
    let file: RelayFile = serde_json::from_str(include_str!("../data/relays.json"))
        .expect("the embedded list of relays is valid");
    let parsed = |entry: RelayEntry| {
        let (rule, _) = NetworkRule::parse(&entry.host).ok()?;
        Some(Relay { target: rule.target, why: entry.why })
    };
    file.relays.into_iter().filter_map(parsed).collect()
});

/// Variables that a placeholder must not replace: they control the sandbox's programs or their
/// trust.
const STEERING: [&str; 16] = [
    "PATH",
    "HOME",
    "SHELL",
    "USER",
    "TMPDIR",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "NODE_OPTIONS",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "JAVA_TOOL_OPTIONS",
];

/// Every warning about a policy that compiled.
pub(super) fn lint(document: &Document, policy: &Policy, catalogue: &Catalogue) -> Vec<Problem> {
    let listed: Vec<Target> = catalogue
        .profiles()
        .flat_map(|(_, profile)| catalogue.allow_rules(profile).0)
        .filter_map(|text| NetworkRule::parse(&text).ok().map(|(rule, _)| rule.target))
        .collect();
    let mut linter = Linter {
        document,
        policy,
        catalogue,
        governed: hosts(&policy.credentials),
        listed: Targets::of(listed.iter().map(|target| (target, 0))),
        warnings: Vec::new(),
    };
    linter.profiles();
    linter.network();
    linter.passthrough();
    linter.credentials();
    endpoints::lint(&mut linter);
    upstream::lint(&mut linter);
    linter.warnings
}

struct Linter<'a> {
    document: &'a Document,
    policy: &'a Policy,
    catalogue: &'a Catalogue,
    /// The hosts of credentials, with the credential's name.
    governed: Targets<'a>,
    /// The hosts of profiles.
    listed: Targets<'a>,
    warnings: Vec<Problem>,
}

impl Linter<'_> {
    fn warn(&mut self, pointer: &str, message: impl Into<String>) {
        if !self.is_done() {
            let line = self.document.line(pointer);
            self.warnings.push(Problem { line, ..Problem::new(pointer, message) });
        }
    }

    /// Whether further warnings would be dropped.
    fn is_done(&self) -> bool {
        self.warnings.len() > MAX_PROBLEMS
    }

    /// Warns of profiles that do nothing beside the others.
    fn profiles(&mut self) {
        if !self.policy.network.closed && self.policy.network.catch_all.is_none() {
            return;
        }
        for named in &self.document.network_profile {
            let profile = self.catalogue.profile(&named.text);
            let open = profile.is_some_and(|profile| {
                !self.catalogue.allow_rules(profile).1 && profile.deny.is_empty()
            });
            if open {
                self.warn(
                    &named.pointer,
                    "this profile has no rules of its own and adds nothing to the other rules: \
                     only what those allow may be reached",
                );
            }
        }
    }

    fn network(&mut self) {
        let Some(network) = &self.document.network else { return };
        for (index, rule) in network.allow.iter().enumerate() {
            if !self.is_done() && !self.never_matches(index, rule) {
                self.breadth(rule);
                self.unused(rule);
            }
        }
        for rule in &network.deny {
            self.public_suffix(&rule.value.target, &rule.text, &rule.pointer, "denies");
        }
        if network.allow.is_empty()
            && network.deny.iter().all(|rule| !rule.value.is_catch_all())
            && !network.deny.is_empty()
        {
            self.warn(
                "/network/deny",
                "without an allow rule or a catch-all, every public host that is not listed here \
                 may be reached; to refuse the rest, add \"*\"",
            );
        }
    }

    /// Warns of an allow rule that never decides, because of a deny rule or another allow rule.
    fn never_matches(&mut self, index: usize, rule: &Located<NetworkRule>) -> bool {
        let network = &self.policy.network;
        if let Some((_, (_, denying))) = network.deny.covering(&rule.value).first() {
            let text = format!(
                "this rule can never match: the deny rule `{}` covers it, and deny comes before \
                 allow",
                denying.text
            );
            self.warn(&rule.pointer, text);
            return true;
        }
        let covering = network.allow.covering(&rule.value);
        let covers = |other: &Target| !rule.value.names_own_host() || *other == rule.value.target;
        let mut wider = covering.into_iter().filter(|(other, (parsed, _))| {
            *other != index
                && covers(&parsed.target)
                && (parsed.tcp || !rule.value.tcp)
                && (*other < index || *parsed != rule.value)
        });
        if let Some((_, (_, other))) = wider.next() {
            let text = format!(
                "this rule adds nothing: `{}` at {} already covers it",
                other.text, other.pointer
            );
            self.warn(&rule.pointer, text);
            return true;
        }
        false
    }

    /// Warns of allow rules that permit more than they seem to.
    fn breadth(&mut self, rule: &Located<NetworkRule>) {
        match &rule.value.target {
            Target::Any => self.warn(
                &rule.pointer,
                "`*` permits every public host; the policy then only keeps keys to their own hosts",
            ),
            Target::Net(net) if net.prefix_len() == 0 => self.warn(
                &rule.pointer,
                "this permits every address, loopback and link-local (cloud metadata) included, \
                 and no host name; for any public host write \"*\"",
            ),
            target => {
                self.public_suffix(target, &rule.text, &rule.pointer, "permits");
                if let Some(relay) = RELAYS.iter().find(|relay| relates(target, &relay.target)) {
                    self.warn(
                        &rule.pointer,
                        format!(
                            "this host is a relay: {}; data can leave and code can enter through \
                             it",
                            relay.why
                        ),
                    );
                }
            }
        }
        let governed = self.governed.overlapping(&rule.value.target).filter(|_| rule.value.tcp);
        if let Some(credential) = governed.map(|index| &self.policy.credentials[index]) {
            let text = format!(
                "`tcp://` means nothing for a host that a credential (`{}`) governs: nothing but \
                 HTTP and TLS is permitted there",
                credential.name
            );
            self.warn(&rule.pointer, text);
        } else if rule.value.tcp && rule.value.port.is_none_or(|port| port == 443) {
            self.warn(
                &rule.pointer,
                "TLS to this host is tunnelled unopened, on port 443 too: no request in it is \
                 judged or recorded; name the port of the protocol that is meant",
            );
        }
    }

    fn public_suffix(&mut self, target: &Target, text: &str, pointer: &str, verb: &str) {
        let Target::Below(name) = target else { return };
        let suffix = psl::suffix(name.as_str().as_bytes()).filter(psl::Suffix::is_known);
        if suffix.is_some_and(|suffix| suffix.as_bytes() == name.as_str().as_bytes()) {
            self.warn(
                pointer,
                format!(
                    "`{text}` {verb} every site under a public suffix, where anybody can register \
                     a name"
                ),
            );
        }
    }

    /// Warns of an allow rule for a name that no credential governs and no profile lists.
    fn unused(&mut self, rule: &Located<NetworkRule>) {
        let target = &rule.value.target;
        if rule.value.tcp || !matches!(target, Target::Name(_) | Target::Below(_)) {
            return;
        }
        if self.governed.overlapping(target).or(self.listed.overlapping(target)).is_some() {
            return;
        }
        self.warn(
            &rule.pointer,
            "no credential and no profile uses this host: any method and path is permitted there, \
             without a key",
        );
    }

    fn passthrough(&mut self) {
        let network = &self.policy.network;
        let allowed = Targets::of(network.allow.iter().map(|(allowed, _)| (&allowed.target, 0)));
        for rule in self.document.network.iter().flat_map(|network| &network.passthrough) {
            self.public_suffix(&rule.value.target, &rule.text, &rule.pointer, "passes through");
            if rule.value.target == Target::Any {
                self.warn(
                    &rule.pointer,
                    "`*` passes all TLS through unopened: no request in it is judged or recorded",
                );
            }
            let reachable = !(network.closed || network.catch_all.is_some())
                || allowed.overlapping(&rule.value.target).is_some();
            if !reachable {
                self.warn(&rule.pointer, "this can never match: no allow rule permits the host");
            }
        }
    }

    fn credentials(&mut self) {
        let document = self.document;
        for (name, written) in document.credentials.iter().chain(&document.credentials_v2) {
            let Some(id) = self.policy.credential_named(name) else { continue };
            let credential = self.policy.credential(id);
            let denied: Vec<usize> =
                (0..credential.hosts.len()).filter(|index| !self.reachable(id.0, *index)).collect();
            if denied.len() == credential.hosts.len() {
                let list = if document.network.is_some() {
                    "/network/allow"
                } else {
                    "a `network` with an `allow` list"
                };
                let text = format!(
                    "the network policy refuses every host of this credential, so its key can \
                     never be used; add them to {list}"
                );
                self.warn(&written.pointer, text);
            } else if let Some(hosts) = &written.hosts {
                for index in denied {
                    self.warn(
                        &hosts[index].pointer,
                        "the network policy refuses this host, so the key can never be used there",
                    );
                }
            }
            self.written_credential(written, &credential.forms);
        }
    }

    /// What is doubtful in a credential by itself. `forms` are its compiled forms.
    fn written_credential(&mut self, written: &CredentialDocument, forms: &[Form]) {
        for host in written.hosts.iter().flatten() {
            self.public_suffix(&host.value.target, &host.text, &host.pointer, "gives the key to");
        }
        if written.allow_plaintext {
            let pointer = format!("{}/allow_plaintext", written.pointer);
            self.warn(
                &pointer,
                "the key may be sent in the clear: anybody on the path of the connection can \
                 read it",
            );
        }
        for variable in written
            .env
            .iter()
            .flatten()
            .filter(|variable| STEERING.contains(&variable.text.as_str()))
        {
            self.warn(
                &variable.pointer,
                "this variable controls programs in the sandbox; the placeholder would \
                 overwrite its value",
            );
        }
        let bare = Form::Header {
            name: "authorization".to_owned(),
            prefix: String::new(),
            suffix: String::new(),
        };
        if let Some(inject) = written.inject.as_ref().filter(|_| *forms == [bare])
            && inject.value.format.is_none()
        {
            self.warn(
                &inject.pointer,
                "`authorization` will hold the key alone, without a scheme; most services \
                 want \"format\": \"Bearer {key}\"",
            );
        }
    }

    /// Whether the network policy could permit any host of the credential's entry.
    fn reachable(&self, credential: usize, index: usize) -> bool {
        let host = &self.policy.credentials[credential].hosts[index];
        let network = &self.policy.network;
        let rule = NetworkRule {
            target: host.target.clone(),
            port: Some(host.port.unwrap_or(443)),
            tcp: false,
        };
        if !network.deny.covering(&rule).is_empty() {
            return false;
        }
        if rule.names_own_host() {
            return network
                .allow
                .iter()
                .any(|(other, _)| other.target == rule.target && other.port == rule.port);
        }
        if network.is_open() {
            return true;
        }
        let port = |other: &NetworkRule| other.port.is_none() || other.port == rule.port;
        network.allow.iter().any(|(other, _)| port(other) && overlap(&other.target, &host.target))
    }
}

/// Whether an allow rule names a relay or a part of one, rather than everything.
fn relates(target: &Target, relay: &Target) -> bool {
    match (target, relay) {
        // `*.example.com` for a relay `gist.example.com` is wider than the relay; only rules for
        // the relay itself count.
        (Target::Below(_), Target::Name(_)) => false,
        _ => overlap(target, relay),
    }
}
