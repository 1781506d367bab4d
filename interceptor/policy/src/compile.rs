//! Turns a document into a [`Policy`]: fills in services from the catalogue, compiles the rules,
//! and reports contradictions.
//!
//! Compiling is pure: it does not read key sources. The caller reads them, and `interceptor check`
//! tries to.

use std::collections::HashMap;
use std::sync::Arc;

use super::Policy;
use super::ask::Ask;
use super::catalogue::{Catalogue, Profile, Service};
use super::credential::{
    ClientCert, Credential, CredentialHost, Form, KeySource, PlaceholderShape,
};
use super::decision::{CredentialId, Rule};
use super::document::{CredentialDocument, Document, Located, NetworkDocument, UpstreamDocument};
use super::endpoint::{EndpointRule, Endpoints};
use super::governance::Governance;
use super::network::{Network, RuleSet};
use super::network_rule::{NetworkRule, Target};
use super::overlap::Targets;
use super::problem::{MAX_PROBLEMS, Problem, did_you_mean};
use super::way_out::{NoProxy, WayOut};

impl Policy {
    /// Compiles a document.
    ///
    /// # Errors
    /// Everything wrong beyond single fields: unknown services and profiles, variables claimed
    /// twice, and hosts that are both passed through and given a key.
    pub fn compile(document: &Document, catalogue: &Catalogue) -> Result<Policy, Vec<Problem>> {
        let (policy, errors) = compile(document, catalogue);
        if errors.is_empty() { Ok(policy) } else { Err(errors) }
    }
}

/// Compiles what it can, and reports the rest.
pub(super) fn compile(document: &Document, catalogue: &Catalogue) -> (Policy, Vec<Problem>) {
    let mut compiler = Compiler { document, catalogue, errors: Vec::new() };
    let network = compiler.network();
    let (credentials, endpoints) = compiler.credentials();
    let governance = Governance::new(&credentials);
    let mut passthrough = RuleSet::default();
    let governed = hosts(&credentials);
    for rule in document.network.iter().flat_map(|network| &network.passthrough) {
        if let Some(index) = governed.overlapping(&rule.value.target) {
            compiler.no_passthrough(&rule.pointer, &credentials[index]);
        }
        passthrough.add(
            rule.value.clone(),
            Arc::new(Rule { text: rule.text.clone(), pointer: rule.pointer.clone() }),
        );
    }
    let limits = document.limits.limits();
    let way_out = document.upstream.as_ref().map(way_out).unwrap_or_default();
    let ask = document.ask.as_ref().map(Ask::new);
    drop(governed);
    let strips = credentials.iter().map(|_| std::sync::OnceLock::new()).collect();
    let names = by_name(&credentials);
    let shared_names =
        credentials.iter().map(|credential| credential.name.as_str().into()).collect();
    let policy = Policy {
        network,
        passthrough,
        credentials,
        endpoints,
        governance,
        names,
        shared_names,
        strips,
        limits,
        way_out,
        ask,
        written: None,
    };
    (policy, compiler.errors)
}

struct Compiler<'a> {
    document: &'a Document,
    catalogue: &'a Catalogue,
    errors: Vec<Problem>,
}

impl Compiler<'_> {
    fn error(&mut self, pointer: &str, message: String) {
        if self.errors.len() <= MAX_PROBLEMS {
            let line = self.document.line(pointer);
            self.errors.push(Problem { line, ..Problem::new(pointer, message) });
        }
    }

    /// The rules of `network` and of every profile: each allow and each deny of either.
    fn network(&mut self) -> Network {
        let document = self.document;
        let mut network = document.network.as_ref().map(explicit_network).unwrap_or_default();
        // With neither `network` nor a profile, the profile is `unrestricted`, which has no rules.
        for named in &document.network_profile {
            match self.catalogue.profile(&named.text) {
                Some(profile) => self.profile(profile, &named.pointer, &mut network),
                None => {
                    self.unknown_profile(named);
                    // A policy that names an unknown profile permits nothing by it.
                    network.closed = true;
                }
            }
        }
        network
    }

    fn unknown_profile(&mut self, named: &Located<()>) {
        let names: Vec<&str> = self.catalogue.profiles().map(|(name, _)| name).collect();
        let hint = did_you_mean(&named.text, names.iter().copied());
        let listed = names.join("`, `");
        self.error(
            &named.pointer,
            format!("there is no such profile{hint} (there are `{listed}`)"),
        );
    }

    fn profile(&mut self, profile: &Profile, pointer: &str, network: &mut Network) {
        let (allow, closed) = self.catalogue.allow_rules(profile);
        network.closed |= closed;
        let rule =
            |text: &str| Arc::new(Rule { text: text.to_owned(), pointer: pointer.to_owned() });
        for (texts, allowed) in [(&allow, true), (&profile.deny, false)] {
            for text in texts {
                match NetworkRule::parse(text) {
                    Ok((parsed, _)) if allowed => network.add_allow(parsed, rule(text)),
                    Ok((parsed, _)) => network.add_deny(parsed, rule(text)),
                    Err(error) => {
                        self.error(pointer, format!("the profile's rule `{text}`: {error}"));
                    }
                }
            }
        }
    }

    fn credentials(&mut self) -> (Vec<Credential>, Vec<Option<Endpoints>>) {
        let mut credentials = Vec::new();
        let mut endpoints = Vec::new();
        let mut variables: HashMap<String, String> = HashMap::new();
        let document = self.document;
        let simple = document.credentials.iter().map(|entry| (true, entry));
        for (simple, (name, written)) in
            simple.chain(document.credentials_v2.iter().map(|entry| (false, entry)))
        {
            let service = self.catalogue.service(name);
            if service.is_none() && written.hosts.is_none() {
                self.unknown_service(name, simple, &written.pointer);
                continue;
            }
            let key_pointer =
                if simple { written.pointer.clone() } else { format!("{}/key", written.pointer) };
            let Some(mut credential) = credential(name, written, service, key_pointer) else {
                continue;
            };
            if credential.key.is_aws()
                && let Some(aws) = self.catalogue.service("aws")
            {
                credential.keeps = aws.keeps.clone();
            }
            self.check_aws(&credential, service, written);
            for variable in &credential.env {
                if let Some(other) = variables.insert(variable.clone(), name.clone())
                    && other != *name
                {
                    let pointer = format!("{}/env", written.pointer);
                    let pointer = if written.env.is_some() {
                        pointer.as_str()
                    } else {
                        written.pointer.as_str()
                    };
                    self.error(
                        pointer,
                        format!(
                            "the variable `{variable}` already carries another credential's \
                             placeholder; give one of the two an `env` of its own"
                        ),
                    );
                }
            }
            endpoints.push(written.endpoints.as_ref().map(|_| compile_endpoints(written)));
            credentials.push(credential);
        }
        (credentials, endpoints)
    }

    fn unknown_service(&mut self, name: &str, simple: bool, pointer: &str) {
        let hint =
            did_you_mean(name, self.catalogue.services().map(|service| service.name.as_str()));
        let remedy = if simple {
            "write it in `credentials_v2`, with `hosts`, or use a service that `interceptor \
             services` lists"
        } else {
            "the field `hosts` is required (`interceptor services` lists the services)"
        };
        self.error(pointer, format!("this name is not a service of the catalogue{hint}; {remedy}"));
    }

    /// A service that takes signatures needs keys that sign, and no other service does.
    fn check_aws(
        &mut self,
        credential: &Credential,
        service: Option<&Service>,
        written: &CredentialDocument,
    ) {
        let signs = service.is_some_and(|service| service.forms.contains(&Form::SigV4));
        let is_aws = credential.key.is_aws();
        if is_aws && service.is_some() && !signs {
            self.error(
                &credential.key_pointer,
                "this service takes no signatures of AWS; write the key itself, or give the \
                 credential a name of its own, with `hosts`"
                    .to_owned(),
            );
        }
        if signs && !is_aws && written.inject.is_none() {
            self.error(
                &credential.key_pointer,
                "requests to this service are signed, so it needs a pair of keys: {\"aws\": \
                 {\"access_key_id\": …, \"secret_access_key\": …}} or \
                 {\"aws\": {\"exec\": [PROGRAM, …]}}"
                    .to_owned(),
            );
        }
        for endpoint in written.endpoints.iter().flatten().filter(|_| !is_aws) {
            if endpoint.aws.is_some() {
                self.error(
                    &format!("{}/aws", endpoint.pointer),
                    "`aws` of a rule is about signatures, and this credential signs nothing"
                        .to_owned(),
                );
            }
        }
    }

    fn no_passthrough(&mut self, pointer: &str, credential: &Credential) {
        let message = format!(
            "TLS to a host of the credential `{}` cannot be passed through: its key could not be \
             set and its rules not kept",
            credential.name
        );
        self.error(pointer, message);
    }
}

fn way_out(written: &UpstreamDocument) -> WayOut {
    let located = |rule: &Located<NetworkRule>| {
        Arc::new(Rule { text: rule.text.clone(), pointer: rule.pointer.clone() })
    };
    let rules = written.no_proxy.iter().map(|rule| (&rule.value, located(rule)));
    WayOut {
        proxy: written.proxy.as_ref().map(|proxy| proxy.value.clone()),
        proxy_auth: written.proxy_auth.clone(),
        proxy_resolves: written.proxy_resolves,
        no_proxy: NoProxy::of(rules),
        ca: written.ca.iter().map(|file| file.value.clone()).collect(),
    }
}

fn explicit_network(written: &NetworkDocument) -> Network {
    let mut network = Network::default();
    for rule in &written.allow {
        network.add_allow(
            rule.value.clone(),
            Arc::new(Rule { text: rule.text.clone(), pointer: rule.pointer.clone() }),
        );
    }
    for rule in &written.deny {
        network.add_deny(
            rule.value.clone(),
            Arc::new(Rule { text: rule.text.clone(), pointer: rule.pointer.clone() }),
        );
    }
    network
}

/// The effective credential: values from the document, then the catalogue, then the defaults.
fn credential(
    name: &str,
    written: &CredentialDocument,
    service: Option<&Service>,
    key_pointer: String,
) -> Option<Credential> {
    let hosts: Vec<CredentialHost> = match (&written.hosts, service) {
        (Some(hosts), _) => hosts.iter().map(|host| host.value.clone()).collect(),
        (None, service) => service?.hosts.clone(),
    };
    let bearer = || {
        vec![Form::Header {
            name: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
            suffix: String::new(),
        }]
    };
    let is_aws = written.key.as_ref().is_some_and(KeySource::is_aws);
    let forms = match (&written.inject, service) {
        _ if is_aws => vec![Form::SigV4],
        (Some(inject), _) => vec![inject.value.form().ok()?],
        (None, Some(service)) => service.forms.clone(),
        (None, None) => bearer(),
    };
    let env = match (&written.env, service) {
        (Some(env), _) => env.iter().map(|variable| variable.text.clone()).collect(),
        (None, service) => service.map(|service| service.env.clone()).unwrap_or_default(),
    };
    let client_cert = written.client_cert.as_ref().map(|certificate| ClientCert {
        certificate: certificate.certificate.clone(),
        certificate_pointer: format!("{}/client_cert/certificate", written.pointer),
        key: certificate.key.clone(),
        key_pointer: format!("{}/client_cert/key", written.pointer),
        is_alone: written.key.is_none(),
    });
    // Reading the document already reported that there is neither.
    let (key, key_pointer) = match (&written.key, &client_cert) {
        (Some(key), _) => (key.clone(), key_pointer),
        (None, certificate) => {
            let certificate = certificate.as_ref()?;
            (certificate.key.clone(), certificate.key_pointer.clone())
        }
    };
    Some(Credential {
        name: name.to_owned(),
        service: service.map(|service| service.name.clone()),
        hosts,
        forms,
        env,
        base_url_env: service.map(|service| service.base_url_env.clone()).unwrap_or_default(),
        placeholder: match service {
            _ if is_aws => PlaceholderShape::aws_access_key_id(),
            Some(service) => service.placeholder.clone(),
            None => PlaceholderShape::default(),
        },
        key,
        key_pointer,
        client_cert,
        allow_plaintext: written.allow_plaintext,
        cookies: written.cookies,
        keeps: service.map(|service| service.keeps.clone()).unwrap_or_default(),
    })
}

fn compile_endpoints(written: &CredentialDocument) -> Endpoints {
    let mut rules = Vec::new();
    for endpoint in written.endpoints.iter().flatten() {
        let methods: Arc<[String]> = endpoint.methods.clone().into();
        let listed = if methods.is_empty() { "*".to_owned() } else { methods.join(",") };
        let pointer: Arc<str> = endpoint.pointer.as_str().into();
        let aws = endpoint.aws.clone().map(Arc::new);
        for path in &endpoint.paths {
            rules.push(EndpointRule {
                methods: Arc::clone(&methods),
                pattern: path.value.clone(),
                aws: aws.clone(),
                ask: endpoint.ask,
                rule: Arc::new(Rule {
                    text: format!("{listed} {}", path.text),
                    pointer: path.pointer.clone(),
                }),
                pointer: Arc::clone(&pointer),
            });
        }
    }
    Endpoints::new(rules)
}

/// The hosts of all credentials, each with its credential's index.
pub(super) fn hosts(credentials: &[Credential]) -> Targets<'_> {
    Targets::of(credentials.iter().enumerate().flat_map(|(index, credential)| {
        credential.hosts.iter().map(move |host| (&host.target, index))
    }))
}

/// Whether some host matches both.
pub(super) fn overlap(one: &Target, other: &Target) -> bool {
    let below = |name: &str, parent: &str| {
        name.strip_suffix(parent).is_some_and(|head| head.ends_with('.'))
    };
    match (one, other) {
        (Target::Any, _) | (_, Target::Any) => true,
        (Target::Name(one), Target::Name(other)) => one == other,
        (Target::Name(name), Target::Below(parent))
        | (Target::Below(parent), Target::Name(name)) => below(name.as_str(), parent.as_str()),
        (Target::Below(one), Target::Below(other)) => {
            one == other
                || below(one.as_str(), other.as_str())
                || below(other.as_str(), one.as_str())
        }
        (Target::Net(one), Target::Net(other)) => one.contains(other) || other.contains(one),
        (Target::Net(_), _) | (_, Target::Net(_)) => false,
    }
}

/// The credentials of a policy by name. If two share a name, the first wins.
fn by_name(credentials: &[Credential]) -> HashMap<String, CredentialId> {
    let mut names = HashMap::with_capacity(credentials.len());
    for (index, credential) in credentials.iter().enumerate() {
        names.entry(credential.name.clone()).or_insert(CredentialId(index));
    }
    names
}
