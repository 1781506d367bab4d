//! The policy document (docs/policy.md) as typed values: every rule in it is parsed, every field
//! known. The JSON Schema (`data/policy.schema.json`) is generated from these types.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;

use super::aws::AwsScopes;
use super::credential::{CredentialHost, KeySource};
use super::inject::InjectDocument;
use super::limits::Limits;
use super::network_rule::NetworkRule;
use super::pattern::PathPattern;
use super::problem::Problem;
use super::source_schema;
use super::way_out::Proxy;

/// A value and where the document has it.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The text, as written.
    pub text: String,
    /// The JSON pointer to it.
    pub pointer: String,
}

/// A policy for the egress of one sandbox.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(title = "interceptor policy", deny_unknown_fields)]
pub struct Document {
    /// A label, never acted on.
    #[schemars(with = "Option<String>")]
    pub image: Option<String>,
    /// Which hosts may be reached.
    pub network: Option<NetworkDocument>,
    /// The profile, or profiles, that say which hosts may be reached; joined with `network`.
    #[schemars(with = "Option<Profiles>")]
    pub network_profile: Vec<Located<()>>,
    /// How origins are reached: by a proxy, with further roots.
    pub upstream: Option<UpstreamDocument>,
    /// Credentials in the simple form: service to key.
    #[schemars(with = "BTreeMap<String, source_schema::Key>", default)]
    pub credentials: Vec<(String, CredentialDocument)>,
    /// Credentials by service name or by a name of one's own.
    #[schemars(with = "BTreeMap<String, CredentialDocument>", default)]
    pub credentials_v2: Vec<(String, CredentialDocument)>,
    /// What is refused for want of a rule is asked of a person; the request waits meanwhile.
    pub ask: Option<AskDocument>,
    /// Ceilings of the sandbox.
    #[schemars(default)]
    pub limits: LimitsDocument,
    /// The line of each value that has a pointer.
    #[schemars(skip)]
    pub(super) lines: HashMap<String, usize>,
}

/// `network`.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NetworkDocument {
    /// Hosts that may be reached: CIDR, address, name, `*.name` or `*`, each with an optional port;
    /// `tcp://` before one also permits protocols that are neither HTTP nor TLS.
    #[schemars(with = "Vec<String>", default)]
    pub allow: Vec<Located<NetworkRule>>,
    /// Hosts that may not be reached; `0.0.0.0/0`, `::/0` or `*` refuse everything that `allow`
    /// does not list.
    #[schemars(with = "Vec<String>", default)]
    pub deny: Vec<Located<NetworkRule>>,
    /// Hosts whose TLS is tunnelled unopened: names or `*.name`, each with an optional port.
    #[schemars(with = "Vec<String>", default)]
    pub passthrough: Vec<Located<NetworkRule>>,
}

/// `upstream`.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct UpstreamDocument {
    /// The proxy by which origins are reached, `http://HOST:PORT` or `https://HOST:PORT`; or
    /// `environment`: the one in HTTPS_PROXY and HTTP_PROXY of whoever runs the interceptor.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<Located<Proxy>>,
    /// The credential for the proxy, or where it is: `user:password` or `Bearer TOKEN`.
    #[schemars(with = "Option<source_schema::Key>")]
    pub proxy_auth: Option<KeySource>,
    /// Whether the proxy resolves names. Rules for addresses then do not hold for what it reaches.
    #[schemars(with = "bool", default)]
    pub proxy_resolves: bool,
    /// Hosts that are reached without the proxy, in the form of network rules.
    #[schemars(with = "Vec<String>", default)]
    pub no_proxy: Vec<Located<NetworkRule>>,
    /// Files (PEM) with roots that are trusted beside the system's, for origins and the proxy.
    #[schemars(with = "Vec<String>", default)]
    pub ca: Vec<Located<PathBuf>>,
}

/// A credential.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["key"] }, { "required": ["client_cert"] }]))]
pub struct CredentialDocument {
    /// The real key, or where it is.
    #[schemars(with = "Option<source_schema::Source>")]
    pub key: Option<KeySource>,
    /// The certificate that is presented to the credential's hosts in TLS, beside the key or
    /// instead of it.
    pub client_cert: Option<ClientCertDocument>,
    /// What the key may be used for; any method and path where it is left out, nothing where it is
    /// empty.
    pub endpoints: Option<Vec<EndpointDocument>>,
    /// The hosts that the key is for, each with an optional port. Required for a name that is not a
    /// catalogue service.
    #[schemars(with = "Option<Vec<String>>")]
    pub hosts: Option<Vec<Located<CredentialHost>>>,
    /// How the key is put into a request; `authorization: Bearer {key}` where it is left out.
    #[schemars(with = "Option<InjectDocument>")]
    pub inject: Option<Located<InjectDocument>>,
    /// The variable, or variables, that carry the placeholder into the sandbox.
    #[schemars(with = "Option<Env>")]
    pub env: Option<Vec<Located<()>>>,
    /// Permits the key to be sent without TLS.
    #[schemars(with = "bool", default)]
    pub allow_plaintext: bool,
    /// Lets cookies pass on the credential's hosts, to the origin and back.
    #[schemars(with = "bool", default)]
    pub cookies: bool,
    /// The JSON pointer to the credential.
    #[schemars(skip)]
    pub(super) pointer: String,
}

/// `client_cert`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ClientCertDocument {
    /// The certificate, followed by those of its issuers (PEM), or where they are.
    #[schemars(with = "source_schema::Source")]
    pub certificate: KeySource,
    /// Its private key (PEM), or where it is.
    #[schemars(with = "source_schema::Source")]
    pub key: KeySource,
}

/// An endpoint rule.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EndpointDocument {
    /// HTTP methods; none is any.
    pub methods: Vec<String>,
    /// Prefixes or globs of the path; at least one.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub paths: Vec<Located<PathPattern>>,
    /// The scopes of AWS signatures that the rule is for.
    #[schemars(with = "Option<AwsScopesDocument>")]
    pub aws: Option<AwsScopes>,
    /// The rule permits only what a person approves.
    #[schemars(with = "bool", default)]
    pub ask: bool,
    /// The JSON pointer to the rule.
    #[schemars(skip)]
    pub(super) pointer: String,
}

/// `ask`.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AskDocument {
    /// The hosts that are asked about, as in `network.allow`; any where it is left out.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub hosts: Option<Vec<Located<NetworkRule>>>,
    /// Seconds that a request waits for an answer (300).
    #[schemars(range(min = 1))]
    pub timeout_seconds: Option<u64>,
}

/// `limits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LimitsDocument {
    /// Connections open at one time (1024).
    #[schemars(range(min = 1))]
    pub connections: Option<u64>,
    /// Requests in progress at one time (512).
    #[schemars(range(min = 1))]
    pub requests: Option<u64>,
    /// Bytes of the head of a request (65536).
    #[schemars(range(min = 1))]
    pub header_bytes: Option<u64>,
    /// Header fields of a request (128).
    #[schemars(range(min = 1))]
    pub headers: Option<u64>,
    /// Bytes of the body of a request (no limit).
    #[schemars(range(min = 1))]
    pub body_bytes: Option<u64>,
    /// Seconds that the head of a request may take (15).
    #[schemars(range(min = 1))]
    pub header_timeout_seconds: Option<u64>,
    /// Seconds without a request, of an upload in which nothing moves, or of an answer that is not
    /// read (300).
    #[schemars(range(min = 1))]
    pub idle_timeout_seconds: Option<u64>,
    /// Seconds that the head of an answer, and each further piece of it, may take (1800).
    #[schemars(range(min = 1))]
    pub response_timeout_seconds: Option<u64>,
    /// Seconds that a tunnel or a WebSocket may be silent (7440).
    #[schemars(range(min = 1))]
    pub tunnel_idle_timeout_seconds: Option<u64>,
    /// Seconds that a connection may live (no limit).
    #[schemars(range(min = 1))]
    pub total_timeout_seconds: Option<u64>,
    /// Certificates minted a second (20).
    #[schemars(range(min = 1))]
    pub mints_per_second: Option<u64>,
    /// Certificates minted at once before that rate holds (200).
    #[schemars(range(min = 1))]
    pub mints_burst: Option<u64>,
    /// Requests a second to one host (no limit).
    #[schemars(range(min = 1))]
    pub requests_per_second_per_host: Option<u64>,
    /// Bytes sent to one host in the life of the sandbox (no limit).
    #[schemars(range(min = 1))]
    pub bytes_up_per_host: Option<u64>,
    /// Audit records that may wait to be written (8192).
    #[schemars(range(min = 1))]
    pub audit_backlog: Option<u64>,
}

/// A document that was read, with what `check` would say about it.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The document.
    pub document: Document,
    /// What is accepted but probably not meant.
    pub warnings: Vec<Problem>,
}

impl Document {
    /// The line of the value that a pointer names, or of the nearest value around it.
    pub fn line(&self, pointer: &str) -> Option<usize> {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return Some(*line);
            }
            pointer = pointer.rsplit_once('/')?.0;
        }
    }
}

/// `aws` of an endpoint rule: the scopes of signatures that it is for.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct AwsScopesDocument {
    /// The services, as signatures name them; any where it is left out.
    #[schemars(length(min = 1))]
    services: Option<Vec<String>>,
    /// The regions; any where it is left out.
    #[schemars(length(min = 1))]
    regions: Option<Vec<String>>,
}

/// One profile or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Profiles {
    /// One profile.
    One(String),
    /// Several profiles.
    Several(#[schemars(length(min = 1))] Vec<String>),
}

/// One variable or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Env {
    /// One variable.
    One(String),
    /// Several variables.
    Several(Vec<String>),
}

/// Seconds: longer than anything that is to be waited for.
const CENTURY: u64 = 100 * 365 * 24 * 60 * 60;

impl LimitsDocument {
    /// The limits with the defaults filled in.
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        // A time that no clock can add to now would be a panic somewhere.
        let seconds = |value: Option<u64>| value.map(|s| Duration::from_secs(s.min(CENTURY)));
        Limits {
            connections: self.connections.unwrap_or(default.connections),
            requests: self.requests.unwrap_or(default.requests),
            header_bytes: self.header_bytes.unwrap_or(default.header_bytes),
            headers: self.headers.unwrap_or(default.headers),
            body_bytes: self.body_bytes,
            header_timeout: seconds(self.header_timeout_seconds).unwrap_or(default.header_timeout),
            idle_timeout: seconds(self.idle_timeout_seconds).unwrap_or(default.idle_timeout),
            response_timeout: seconds(self.response_timeout_seconds)
                .unwrap_or(default.response_timeout),
            tunnel_idle_timeout: seconds(self.tunnel_idle_timeout_seconds)
                .unwrap_or(default.tunnel_idle_timeout),
            total_timeout: seconds(self.total_timeout_seconds),
            mints_per_second: self.mints_per_second.unwrap_or(default.mints_per_second),
            mints_burst: self.mints_burst.unwrap_or(default.mints_burst),
            requests_per_second_per_host: self.requests_per_second_per_host,
            bytes_up_per_host: self.bytes_up_per_host,
            audit_backlog: self.audit_backlog.unwrap_or(default.audit_backlog),
        }
    }
}
