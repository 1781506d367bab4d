//! A policy's `upstream`, resolved where it was loaded: the proxies, a credential for each, and
//! additional roots. Such a credential is stored, reread, redacted and handed over as keys are.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use interceptor_policy::{KeySource, LiteralKey, NoProxy, Proxy, ProxyUrl, Scheme, WayOut};
use zeroize::Zeroizing;

use super::entry::KeyringEntry;
use super::handed::{HandedGateway, HandedOutward};
use super::key::KeyProblem;
use super::kin::Kin;
use super::location::KeyLocation;
use super::source::{CA, EnvironmentLookup, KeyError, PROXY, PROXY_AUTH};
use crate::files;
use crate::tls::TlsError;
use crate::tls::client::{self, ClientConfigs};
use crate::tls::verify::CertificateVerifier;
use crate::upstream::{Authorization, AuthorizationValue, ProxyServer, Road};

/// The longest file of roots; a system's bundle has about a quarter of a megabyte.
const LARGEST_ROOTS: usize = 16 << 20;

/// The variables that name the proxy for one scheme, in order of precedence.
const FOR_HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const FOR_HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// A proxy, and the credential for it.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// Its URL.
    pub(crate) url: ProxyUrl,
    auth: Option<Arc<KeyringEntry>>,
}

impl Gateway {
    /// The value of `proxy-authorization`, if any.
    pub(crate) fn authorization(&self) -> Option<Zeroizing<String>> {
        self.auth.as_ref().map(|entry| entry.current().authorization())
    }

    /// Whether there is a credential for the proxy.
    pub(crate) fn is_authorized(&self) -> bool {
        self.auth.is_some()
    }
}

/// The way out of a sandbox, as loaded.
#[derive(Debug, Default)]
pub(crate) struct Outward {
    /// The proxy for everything but plain HTTP.
    pub(crate) https: Option<Gateway>,
    /// The proxy for plain HTTP.
    pub(crate) http: Option<Gateway>,
    /// Destinations that bypass the proxy.
    pub(crate) no_proxy: NoProxy,
    /// Whether the proxy resolves names.
    pub(crate) proxy_resolves: bool,
    /// The files of additional roots, with their content (PEM).
    pub(crate) roots: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl Authorization for Gateway {
    /// The credential as its file has it now. The file may be on a mount that hangs, so this is for
    /// a thread of its own.
    fn value(&self) -> AuthorizationValue<'_> {
        Box::pin(async {
            // Of no sandbox, so that all hear of another key.
            let kin = Kin::default();
            if let Some(Err((path, problem))) =
                self.auth.as_ref().map(|auth| auth.read_again(false, &kin))
            {
                let path = path.display();
                tracing::warn!(%path, %problem, "keeping the previous credential of the proxy");
            }
            self.authorization()
        })
    }
}

impl Outward {
    /// The road to services that are asked for keys, and what tells it from others.
    pub(super) fn road(
        &self,
        verifier: &Arc<CertificateVerifier>,
        base: &Arc<rustls::ClientConfig>,
    ) -> Result<(Road, String), TlsError> {
        let tls = if self.roots.is_empty() {
            base.clone()
        } else {
            let roots = self.roots.iter().map(|(name, pem)| (name.as_str(), pem.as_slice()));
            client::base(client::with_roots(verifier, roots)?)?
        };
        let mut road = Road::direct(ClientConfigs::new(tls));
        let server = |gateway: &Gateway| ProxyServer {
            url: gateway.url.clone(),
            auth: gateway.is_authorized().then(|| Arc::new(gateway.clone()) as _),
        };
        road.https = self.https.as_ref().map(server);
        road.http = self.http.as_ref().map(server);
        road.no_proxy = self.no_proxy.clone();
        road.proxy_resolves = self.proxy_resolves;
        let url = |gateway: &Option<Gateway>| gateway.as_ref().map(|gateway| gateway.url.clone());
        let no_proxy: Vec<&str> = self.no_proxy.texts().collect();
        let roots: Vec<_> =
            self.roots.iter().map(|(_, pem)| String::from_utf8_lossy(pem)).collect();
        let proxies = (url(&self.https), url(&self.http), self.proxy_resolves);
        Ok((road, format!("{proxies:?} {no_proxy:?} {roots:?}")))
    }

    /// Whether there is neither a proxy nor an additional root.
    pub(crate) fn is_usual(&self) -> bool {
        self.https.is_none() && self.http.is_none() && self.roots.is_empty()
    }

    /// Loads the proxies, credentials and roots that a policy names.
    pub(super) fn load(
        way_out: &WayOut,
        previous: Option<&Outward>,
        environment: EnvironmentLookup<'_>,
    ) -> Result<Outward, Vec<KeyError>> {
        let mut errors = Vec::new();
        let mut outward = Outward {
            no_proxy: no_proxy_for(way_out, environment),
            proxy_resolves: way_out.proxy_resolves,
            ..Outward::default()
        };
        for (number, path) in way_out.ca.iter().enumerate() {
            match read_roots(path) {
                Ok(pem) => outward.roots.push((path.display().to_string(), pem)),
                Err(problem) => errors.push(KeyError {
                    credential: format!("{CA}.{number}"),
                    place: KeyLocation::File(path.clone()),
                    problem,
                }),
            }
        }
        let before = |url: &ProxyUrl| previous.and_then(|previous| previous.entry_for(url));
        let entry = |source: &KeySource, url: &ProxyUrl, place: KeyLocation| {
            KeyringEntry::for_proxy(source, before(url), environment)
                .map(|entry| Some(Arc::new(entry)))
                .map_err(|problem| KeyError { credential: PROXY_AUTH.into(), place, problem })
        };
        let auth = |url: &ProxyUrl| match &way_out.proxy_auth {
            Some(source) => entry(source, url, KeyLocation::of(source)),
            None => Ok(None),
        };
        match &way_out.proxy {
            None => {}
            Some(Proxy::Url(url)) => match auth(url) {
                Ok(auth) => {
                    let gateway = Gateway { url: url.clone(), auth };
                    (outward.https, outward.http) = (Some(gateway.clone()), Some(gateway));
                }
                Err(error) => errors.push(error),
            },
            Some(Proxy::Environment) => {
                let of = |names: &[&str]| -> Result<Option<Gateway>, KeyError> {
                    let Some((name, url, user)) = variable(names, environment)? else {
                        return Ok(None);
                    };
                    let auth = match user {
                        Some(user) => {
                            let source = KeySource::Literal(LiteralKey::new(user.to_string()));
                            entry(&source, &url, KeyLocation::Variable(name))?
                        }
                        None => auth(&url)?,
                    };
                    Ok(Some(Gateway { url, auth }))
                };
                for (names, place) in
                    [(FOR_HTTPS, &mut outward.https), (FOR_HTTP, &mut outward.http)]
                {
                    match of(&names) {
                        Ok(gateway) => *place = gateway,
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
        if errors.is_empty() { Ok(outward) } else { Err(errors) }
    }

    fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        self.https.iter().chain(&self.http)
    }

    fn entry_for(&self, url: &ProxyUrl) -> Option<&KeyringEntry> {
        self.gateways().find(|gateway| gateway.url == *url)?.auth.as_deref()
    }

    /// The proxies' credentials, without duplicates.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<KeyringEntry>> {
        let first = self.https.as_ref().and_then(|gateway| gateway.auth.as_ref());
        let second = self.http.as_ref().and_then(|gateway| gateway.auth.as_ref());
        let second = second.filter(|second| first.is_none_or(|first| !Arc::ptr_eq(first, second)));
        first.into_iter().chain(second)
    }

    /// The state to hand over to another process.
    pub(super) fn hand_over(&self) -> HandedOutward {
        let gateway = |gateway: &Gateway| HandedGateway {
            url: gateway.url.to_string(),
            auth: gateway.auth.as_ref().map(|entry| entry.hand_over()),
        };
        HandedOutward {
            https: self.https.as_ref().map(gateway),
            http: self.http.as_ref().map(gateway),
            no_proxy: self.no_proxy.texts().map(str::to_owned).collect(),
            proxy_resolves: self.proxy_resolves,
            roots: self.roots.iter().map(|(name, pem)| (name.clone(), pem.to_vec())).collect(),
        }
    }

    /// The state that another process handed over.
    pub(super) fn restore(handed: HandedOutward) -> Result<Outward, KeyError> {
        let problem = |problem| KeyError {
            credential: PROXY_AUTH.into(),
            place: KeyLocation::Document,
            problem,
        };
        let gateway = |handed: Option<HandedGateway>| {
            let Some(HandedGateway { url, auth }) = handed else { return Ok(None) };
            let url = ProxyUrl::parse(&url).map_err(|error| problem(KeyProblem::Proxy(error)))?;
            let entry = auth.map(KeyringEntry::restore_for_proxy).transpose().map_err(problem)?;
            Ok(Some(Gateway { url, auth: entry.map(Arc::new) }))
        };
        let mut no_proxy = NoProxy::default();
        no_proxy.add_rules(handed.no_proxy.iter().map(String::as_str));
        Ok(Outward {
            https: gateway(handed.https)?,
            http: gateway(handed.http)?,
            no_proxy,
            proxy_resolves: handed.proxy_resolves,
            roots: handed
                .roots
                .into_iter()
                .map(|(name, pem)| (name, Zeroizing::new(pem)))
                .collect(),
        })
    }
}

fn read_roots(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
    let (pem, _) = files::read(path, LARGEST_ROOTS).map_err(KeyProblem::Unreadable)?;
    let has_certificate = memchr::memmem::find(&pem, b"-----BEGIN CERTIFICATE-----").is_some();
    if has_certificate { Ok(pem) } else { Err(KeyProblem::NoCertificate) }
}

/// A variable that is set and not empty.
fn text(name: &str, environment: EnvironmentLookup<'_>) -> Option<Zeroizing<String>> {
    let value = environment(name).map(OsString::into_string)?.ok().map(Zeroizing::new);
    value.filter(|value| !value.is_empty())
}

type Variable = (String, ProxyUrl, Option<Zeroizing<String>>);

/// The proxy in the first of these variables that is set: the variable's name, the URL, and the
/// user in it.
fn variable(
    names: &[&str],
    environment: EnvironmentLookup<'_>,
) -> Result<Option<Variable>, KeyError> {
    for name in names {
        let Some(value) = text(name, environment) else { continue };
        return match ProxyUrl::parse_with_user(&value) {
            Ok((url, user)) => Ok(Some(((*name).to_owned(), url, user))),
            Err(error) => Err(KeyError {
                credential: PROXY.into(),
                place: KeyLocation::Variable((*name).to_owned()),
                problem: KeyProblem::Proxy(error),
            }),
        };
    }
    Ok(None)
}

/// The proxy for a scheme in this environment; its credential is not read.
///
/// # Errors
/// If a variable does not name a proxy.
pub(crate) fn proxy_for(
    way_out: &WayOut,
    scheme: Scheme,
    environment: EnvironmentLookup<'_>,
) -> Result<Option<ProxyUrl>, KeyError> {
    match &way_out.proxy {
        None => Ok(None),
        Some(Proxy::Url(url)) => Ok(Some(url.clone())),
        Some(Proxy::Environment) => {
            let names = match scheme {
                Scheme::Https => &FOR_HTTPS,
                Scheme::Http => &FOR_HTTP,
            };
            Ok(variable(names, environment)?.map(|(_, url, _)| url))
        }
    }
}

/// Destinations that bypass the proxy in this environment.
pub(crate) fn no_proxy_for(way_out: &WayOut, environment: EnvironmentLookup<'_>) -> NoProxy {
    let mut no_proxy = way_out.no_proxy.clone();
    if way_out.proxy == Some(Proxy::Environment) {
        let listed = NO_PROXY.iter().find_map(|name| text(name, environment));
        listed.into_iter().for_each(|listed| no_proxy.add_variable(&listed));
    }
    no_proxy
}
