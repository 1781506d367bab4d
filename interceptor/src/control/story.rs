//! What the policy in force says of a record: which rule decides, and for a refusal which is the
//! nearest, and the edit that would permit it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use interceptor_policy::{Catalogue, Decision, Edit, Policy, Recorded, Rule};
use serde_json::{Value, json};

use super::params::{Id, Text};
use super::problem::ApiProblem;
use super::shared::{Control, Stories, blocking};
use crate::fleet::Fleet;

/// What the policy in force says of a record: the rule that decides, and for a refusal the edits
/// that would permit it. The body is a record.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/story",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body(content = Value, description = "A record of this sandbox"),
    responses(
        (status = 200, description = "What the policy says", body = Value),
        (
            status = 404,
            description = "There is no such sandbox",
            body = ApiProblem,
            content_type = "application/problem+json",
        ),
        (
            status = 422,
            description = "The body is no record",
            body = ApiProblem,
            content_type = "application/problem+json",
        ),
    )
)]
pub(super) async fn tell(
    State(control): State<Control>,
    Id(id): Id,
    Text(text): Text,
) -> Result<Json<Value>, ApiProblem> {
    story_of(control.fleet, control.stories, &id, &text).await
}

/// What the policy in force of a sandbox says of a record.
///
/// # Errors
/// If there is no such sandbox, or the text is no record.
pub(crate) async fn story_of(
    fleet: Arc<Fleet>,
    stories: Stories,
    id: &str,
    text: &str,
) -> Result<Json<Value>, ApiProblem> {
    let member = fleet.get(id)?;
    let record: Recorded = serde_json::from_str(text)
        .map_err(|error| ApiProblem::field("", format!("this is no record: {error}")))?;
    // Of a policy that is not shown, nothing is told.
    if member.summary().policy.is_null() {
        return Ok(Json(json!({ "decision": null, "patches": [] })));
    }
    // Never closed.
    let _place = stories.0.acquire().await;
    let told = blocking(move || {
        let (policy, document) = (member.policy(), member.summary().policy);
        story(&policy, &document, fleet.catalogue(), record)
    });
    Ok(Json(told.await?))
}

fn story(policy: &Policy, document: &Value, catalogue: &Catalogue, mut record: Recorded) -> Value {
    // A refused lookup is the beginning of a connection.
    if record.kind == "dns" {
        record.kind = "connection".to_owned();
        record.port = record.port.or(Some(443));
    }
    if record.host.is_none() {
        record.host = record.ip.map(|address| address.to_string());
    }
    let Some(subject) = record.subject() else { return json!({ "decision": null, "patches": [] }) };
    let (decision, rule, message, nearest) = match subject.judge(policy) {
        Decision::Allow(allow) => ("allow", allow.rule, None, None),
        Decision::Deny(deny) => ("deny", deny.rule, Some(deny.message), deny.nearest),
    };
    let proposals = if decision == "deny" { policy.proposals(&subject) } else { Vec::new() };
    let patches: Vec<Value> = proposals
        .iter()
        .map(|one| json!({ "patch": one.patch.to_value(), "wider": one.wider }))
        .collect();
    let edit = match (decision, document) {
        ("allow", _) | (_, Value::Null) => None,
        _ => Edit::permitting(document, catalogue, &subject).map(|edit| edit.to_string()),
    };
    json!({
        "decision": decision,
        "message": message,
        "rule": rule.as_ref().map(of_rule),
        "nearest": nearest.map(|near| {
            json!({ "rule": of_rule(&near.rule), "differs": near.failed, "edit": near.edit })
        }),
        "edit": edit,
        "patches": patches,
    })
}

fn of_rule(rule: &Arc<Rule>) -> Value {
    json!({ "text": rule.text, "pointer": rule.pointer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(policy: &str, record: Value) -> Value {
        let catalogue = Catalogue::builtin();
        let compiled = interceptor_policy::check(policy, &catalogue).policy.unwrap();
        let document = serde_json::from_str(policy).unwrap();
        story(&compiled, &document, &catalogue, serde_json::from_value(record).unwrap())
    }

    #[test]
    fn a_refusal_has_the_edit_that_permits_it_and_a_permission_its_rule() {
        let policy = r#"{"network":{"allow":["a.test"],"deny":["*"]}}"#;
        let mut record = json!({
            "kind": "request", "decision": "deny", "type": "host_denied", "host": "b.test",
            "port": 443, "method": "GET", "path": "/x",
        });
        let refused = told(policy, record.clone());
        assert_eq!(refused["decision"], "deny");
        assert_eq!(refused["edit"], "add \"b.test\" to /network/allow");
        let patch = json!([{ "op": "add", "path": "/network/allow/-", "value": "b.test:443" }]);
        assert_eq!(refused["patches"], json!([{ "patch": patch, "wider": false }]));
        record["host"] = json!("a.test");
        let permitted = told(policy, record.clone());
        assert_eq!(permitted["rule"], json!({ "text": "a.test", "pointer": "/network/allow/0" }));
        assert_eq!((&permitted["edit"], &permitted["patches"]), (&Value::Null, &json!([])));
        record["kind"] = json!("dns");
        record["host"] = json!("c.test");
        assert_eq!(told(policy, record)["decision"], "deny");
        assert_eq!(told(policy, json!({ "kind": "lifecycle" }))["decision"], Value::Null);
    }

    #[test]
    fn what_a_deny_rule_refuses_cannot_be_leased() {
        let policy = r#"{"network":{"allow":["*"],"deny":["b.test"]}}"#;
        let refused = told(
            policy,
            json!({ "kind": "request", "decision": "deny", "host": "b.test", "port": 443,
                    "method": "GET", "path": "/" }),
        );
        assert_eq!(refused["patches"], json!([]));
        assert_eq!(refused["edit"], "remove \"b.test\" at /network/deny/0");
    }
}
