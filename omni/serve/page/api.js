// Our own routes: uploads, the answer as a stream, probabilities. The key is kept here, in memory, and nowhere else.

/** What the server says when it does not answer. `code` is a short stable word, such as "no_streams". */
export class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

let key = "";
let askForKey = async () => null;

/** `ask(wrong)` gives the key that the user types, or null; `wrong` says that the last one was not right. */
export function onKey(ask) {
  askForKey = ask;
}

async function send(path, { headers = {}, ...options } = {}) {
  const keyed = key ? { ...headers, authorization: `Bearer ${key}` } : headers;
  const reply = await fetch(path, { ...options, headers: keyed }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached. Is it still running?", "unreachable");
  });
  if (reply.ok) return reply;
  if (reply.status === 401) {
    const typed = await askForKey(Boolean(key));
    if (typed === null) throw new Refused("This server answers only with its API key.", "no_key");
    key = typed;
    return send(path, { headers, ...options });
  }
  const { error } = await reply.json().catch(() => ({ error: { message: `The server answered ${reply.status}.` } }));
  throw new Refused(error.message, error.code);
}

function posted(body) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

/** The name of the server's model. */
export async function model() {
  return (await (await send("/v1/models")).json()).data[0].id;
}

/** Keep a file on the server for a while; gives its id. */
export async function upload(file, signal) {
  const body = new FormData();
  body.append("file", file, file.name);
  return (await (await send("/v1/files", { method: "POST", body, signal })).json()).id;
}

/** Delete an upload, also while the page is being closed. If the server is gone, so is the file. */
export function forget(id) {
  send(`/v1/files/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/** Probabilities of all labels, without reasons. */
export async function labels(body) {
  return (await (await send("/v1/labels", posted(body))).json()).labels;
}

/** The deltas of a chat completion as they are written; the last has `emotion`, the record of the answer. */
export async function* chat(body, signal) {
  const reply = await send("/v1/chat/completions", { ...posted({ ...body, stream: true }), signal });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused("The answer broke off. Ask again.", "broken_off");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const text = event.slice("data: ".length);
      if (text === "[DONE]") return;
      const chunk = JSON.parse(text);
      if (chunk.error) throw new Refused(chunk.error.message, chunk.error.code);
      yield chunk.choices[0].delta;
    }
  }
}
