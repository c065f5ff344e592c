// What happens when something is chosen, dropped, asked or pressed.

import * as api from "./api.js";
import * as panel from "./panel.js";
import * as player from "./player.js";
import * as recorder from "./recorder.js";

const $ = (id) => document.getElementById(id);
const QUESTION = $("question").placeholder;

let model = null; // the name, once the server has told it
let clip = null; // { file, id }: the file, and its id once it is on the server
let turns = []; // { question, thought, content, emotion, view }
let dropped = 0; // of the oldest turns, which the model can no longer take
let asking = null; // aborts the answer that is being written
let shown = null; // the turn whose answer stands in the panel

// ---- the clip ----

function choose(file) {
  if (!file) return;
  asking?.abort();
  recorder.close();
  forget();
  clip = { file, id: null };
  [turns, dropped, shown] = [[], 0, null];
  $("log").replaceChildren();
  $("clip-name").textContent = file.name;
  $("drop").hidden = true;
  $("send").disabled = Boolean(asking);
  fault("");
  say("");
  panel.show(null);
  player.open(file);
  $("question").focus();
}

/** Have the server delete the clip. */
function forget() {
  if (clip?.id) api.forget(clip.id);
  if (clip) clip.id = null;
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  choose($("file").files[0]);
  $("file").value = ""; // so that the same file can be chosen again
});
for (const event of ["dragover", "drop", "dragleave"]) {
  $("clip").addEventListener(event, (dragged) => {
    dragged.preventDefault();
    $("clip").classList.toggle("over", event === "dragover");
    if (event === "drop") choose(dragged.dataTransfer.files[0]);
  });
}
window.addEventListener("pagehide", forget);
recorder.wire(choose);

// ---- a question ----

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (clip && !asking) ask($("question").value.trim() || QUESTION);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => asking.abort());

async function ask(question) {
  const turn = { question, thought: "", content: "", emotion: null };
  const view = (turn.view = viewOf(turn));
  const { signal } = (asking = new AbortController());
  $("log").append(view.element);
  busy(true);
  fault("");
  try {
    await write(turn, signal);
    signal.throwIfAborted(); // another clip was chosen meanwhile
    turns.push(turn);
    $("question").value = "";
    view.settle(() => present(turn));
    present(turn);
    say(`It says: ${turn.emotion.label}.`);
  } catch (error) {
    view.element.remove();
    say(signal.aborted ? "Stopped." : "");
    if (!signal.aborted) fault(error.message);
  }
  asking = null;
  busy(false);
}

/** Let the server write the answer of a turn. */
async function write(turn, signal) {
  const asked = clip;
  model ??= await api.model();
  say(asked.id ? "Looking and listening…" : "Uploading the clip…");
  asked.id ??= await api.upload(asked.file, signal);
  say("Looking and listening…");
  const body = { model, messages: messages(asked.id, turn), think: $("think").checked };
  try {
    for await (const delta of api.chat(body, signal)) {
      turn.thought += delta.reasoning_content ?? "";
      turn.content += delta.content ?? "";
      turn.emotion = delta.emotion ?? null;
      if (turn.thought || turn.content) say("Writing…");
      turn.view.update();
    }
  } catch (error) {
    if (!canAskAgain(error, asked)) throw error;
    [turn.thought, turn.content] = ["", ""];
    await write(turn, signal);
  }
}

/** Whether what was refused was put right: an upload that was too old, or a conversation that was too long. */
function canAskAgain(error, asked) {
  if (error.code === "file_not_found" && asked.id) {
    asked.id = null;
    return true;
  }
  if (error.code === "context_length_exceeded" && dropped < turns.length) {
    turns[dropped].view.forget();
    dropped += 1;
    return true;
  }
  return false;
}

function messages(id, next) {
  const said = [...turns.slice(dropped), next].flatMap(({ question, thought, content, emotion }) => [
    { role: "user", content: [{ type: "text", text: question }] },
    ...(emotion ? [{ role: "assistant", content, reasoning_content: thought }] : []),
  ]);
  said[0].content.unshift({ type: "file", file: { file_id: id } });
  return said;
}

// ---- what is shown ----

/** A turn in the log. It is read out when it is whole, not word by word. */
function viewOf(turn) {
  const element = document.createElement("article");
  element.setAttribute("aria-busy", "true");
  const [question, thought, content] = ["question", "thought", "content"].map((name) => {
    const line = document.createElement("p");
    line.className = name;
    element.append(line);
    return line;
  });
  question.textContent = turn.question;
  const scroll = () => ($("log").scrollTop = $("log").scrollHeight);
  return {
    element,
    update() {
      thought.textContent = turn.thought;
      content.textContent = turn.content;
      scroll();
    },
    settle(press) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Show what it rests on";
      button.addEventListener("click", press);
      content.append(button);
      element.removeAttribute("aria-busy");
      scroll();
    },
    forget() {
      question.textContent += "\n(The model no longer sees this: the conversation has outgrown it.)";
    },
  };
}

function present(turn) {
  shown = turn;
  const { evidence, duration_s } = turn.emotion;
  const pick = (index) => {
    panel.mark(index);
    player.goTo(evidence[index], index);
  };
  panel.show(turn.emotion, pick);
  player.show(evidence, duration_s, pick);
}

$("senses").addEventListener("toggle", () => {
  if (!$("senses").open) return;
  const { question, emotion } = shown;
  const asked = clip;
  panel.showSenses(emotion, async (senses) => {
    asked.id ??= await api.upload(asked.file);
    return api.labels({ model, clip: { url: asked.id }, question, senses });
  });
});

function busy(on) {
  $("send").disabled = on;
  $("stop").hidden = !on;
}

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text; // what is set again would be read out again
}

function fault(text) {
  $("fault").hidden = !text;
  $("fault").textContent = text;
}

// ---- the key, and the beginning ----

function askForKey(wrong) {
  const { promise, resolve } = Promise.withResolvers();
  const end = (value) => {
    $("key").value = "";
    $("key-dialog").close();
    resolve(value);
  };
  $("key-wrong").hidden = !wrong;
  $("key-form").onsubmit = (event) => (event.preventDefault(), end($("key").value.trim()));
  $("key-cancel").onclick = () => end(null);
  $("key-dialog").oncancel = (event) => (event.preventDefault(), end(null));
  $("key-dialog").showModal();
  return promise;
}

api.onKey(askForKey);
api.model().then(
  (name) => {
    model = name;
    $("model").textContent = `model: ${name}`;
  },
  (error) => fault(error.message),
);
