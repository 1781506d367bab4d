// Requests to the interceptor. The cookie says who asks, and the header that it was meant.

let signedOut = () => {};

/** What to do when there is no session any more. */
export function onSignedOut(action) {
  signedOut = action;
}

/** Sends a request; throws an error whose message is for people. */
export async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { 'x-interceptor-request': '1', 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error('The interceptor does not answer.');
  }
  if (response.status === 401) {
    signedOut();
    throw new Error('The session has ended.');
  }
  const text = await response.text();
  let value = {};
  try {
    value = text ? JSON.parse(text) : {};
  } catch {
    throw new Error(`The interceptor gave an answer that cannot be read (${response.status}).`);
  }
  if (!response.ok) throw new Error(value.detail ?? value.title ?? `It said ${response.status}.`);
  return value;
}

const part = encodeURIComponent;

export const answer = (id, body) => ask('POST', `/v1/approvals/${part(id)}`, body);
export const always = (id, patch) => ask('POST', `/v1/approvals/${part(id)}/always`, { patch });
export const lease = (sandbox, body) => ask('POST', `/v1/sandboxes/${part(sandbox)}/leases`, body);
export const revoke = (sandbox, lease) =>
  ask('DELETE', `/v1/sandboxes/${part(sandbox)}/leases/${part(lease)}`);
export const policyOf = (sandbox) => ask('GET', `/v1/sandboxes/${part(sandbox)}/policy`);
export const storyOf = (record) =>
  ask('POST', `/v1/sandboxes/${part(record.sandbox)}/story`, record);

/** Whether there is a session. */
export async function hasSession() {
  const response = await fetch('/', { method: 'HEAD' });
  return response.status !== 401;
}
