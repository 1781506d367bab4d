//! The schema of where a key comes from. Only the schema of these types is used: the reader makes a
//! [`KeySource`](super::credential::KeySource).

use schemars::JsonSchema;

/// A key: the key itself, or where it is.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used: the reader makes a KeySource")]
pub(super) enum Key {
    /// The key itself.
    Literal(#[schemars(length(min = 1))] String),
    /// A variable of the interceptor's environment.
    Env(EnvKey),
    /// A file; its trailing newline is dropped.
    File(FileKey),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct EnvKey {
    /// The variable's name.
    env: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct FileKey {
    /// The file's path.
    file: String,
}

/// A credential's key: the key itself, or where it comes from.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used: the reader makes a KeySource")]
pub(super) enum Source {
    /// The key itself.
    Literal(#[schemars(length(min = 1))] String),
    /// A variable of the interceptor's environment.
    Env(EnvKey),
    /// A file; its trailing newline is dropped.
    File(FileKey),
    /// What a program prints.
    Exec(ExecKey),
    /// What a token endpoint gives.
    Oauth2(Box<Oauth2Key>),
    /// The keys of an AWS account, with which requests are signed.
    Aws(AwsKey),
    /// A secret of Vault or OpenBao.
    Vault(VaultKey),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct AwsKey {
    /// The keys, or a program that prints them.
    aws: AwsPair,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum AwsPair {
    /// Each key with its source.
    Keys(AwsKeysDocument),
    /// What a program prints in the form of AWS's `credential_process`.
    Exec(ExecKey),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct AwsKeysDocument {
    /// The access key's id.
    access_key_id: Key,
    /// The secret access key.
    secret_access_key: Key,
    /// The session token, if the keys are temporary.
    session_token: Option<Key>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct ExecKey {
    /// The program, by its name in PATH or its absolute path, and its arguments. No shell reads
    /// them.
    #[schemars(length(min = 1, max = 64))]
    exec: Vec<String>,
    /// How long it may take [default: 30].
    #[schemars(range(min = 1, max = 600))]
    timeout_seconds: Option<u64>,
    /// How long its key lasts, if its output does not say so [default: 300].
    #[schemars(range(min = 1, max = 31_536_000))]
    ttl_seconds: Option<u64>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Oauth2Key {
    /// A token endpoint (RFC 6749), which gives the key.
    oauth2: Oauth2,
}

/// A secret that a source presents, or where it is.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum Input {
    /// The secret itself.
    Literal(#[schemars(length(min = 1))] String),
    /// A variable of the interceptor's environment.
    Env(EnvKey),
    /// A file; its trailing newline is dropped.
    File(FileKey),
    /// What a program prints.
    Exec(ExecKey),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Oauth2 {
    /// The token endpoint: https://, or http:// and a loopback address.
    token_url: String,
    /// What is presented for a token.
    grant: Grant,
    /// The client's name; the issuer of an assertion.
    client_id: Option<String>,
    /// The client's password.
    client_secret: Option<Input>,
    /// How the client presents its password: in `authorization: Basic`, or in the body
    /// [default: basic].
    client_auth: Option<ClientAuth>,
    /// The refresh token, for the grant `refresh_token`.
    refresh_token: Option<Input>,
    /// The private key (PEM; RSA or P-256) that signs assertions, for the grant `jwt_bearer`.
    assertion_key: Option<Input>,
    /// The name of that key, `kid`.
    key_id: Option<String>,
    /// The subject of an assertion, `sub` [default: client_id].
    subject: Option<String>,
    /// The audience of an assertion, `aud` [default: token_url].
    audience: Option<String>,
    /// The scope asked for.
    scope: Option<String>,
    /// How long the endpoint may take [default: 30].
    #[schemars(range(min = 1, max = 600))]
    timeout_seconds: Option<u64>,
    /// How long a token lasts, if the endpoint does not say so [default: 300].
    #[schemars(range(min = 1, max = 31_536_000))]
    ttl_seconds: Option<u64>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum Grant {
    ClientCredentials,
    RefreshToken,
    JwtBearer,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum ClientAuth {
    Basic,
    Post,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct VaultKey {
    /// A Vault or OpenBao server, which keeps or makes the key.
    vault: Vault,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Vault {
    /// The server: https://, or http:// and a loopback address.
    address: String,
    /// The secret's path in the API: `secret/data/NAME` for KV version 2.
    path: String,
    /// The field of the secret that holds the key.
    field: String,
    /// What the server is asked as.
    auth: VaultAuth,
    /// A file with the only roots (PEM) that the server is verified against.
    ca: Option<String>,
    /// How long the server may take for all that one key needs [default: 30].
    #[schemars(range(min = 1, max = 600))]
    timeout_seconds: Option<u64>,
    /// How long a key lasts that has no lease [default: 300].
    #[schemars(range(min = 1, max = 31_536_000))]
    ttl_seconds: Option<u64>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum VaultAuth {
    /// A token.
    Token(Input),
    /// An application.
    AppRole(AppRole),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct AppRole {
    /// The application's role id.
    role_id: String,
    /// Its secret id.
    secret_id: Input,
    /// Whether `secret_id` is the token of a wrapped response that holds it [default: false].
    wrapped: Option<bool>,
}
