// What an answer says and rests on: probabilities, reasons with verdicts, each sense by itself, and the facts.

import { nameOf, timeOf } from "./player.js";

const MARKS = { supported: "✓", contradicted: "✗", uncheckable: "?" };
const SENSES = [
  { name: "Both", of: ["video", "audio"] },
  { name: "Picture", of: ["video"] },
  { name: "Sound", of: ["audio"] },
];
const JUDGED = {
  "video,audio": "Face and voice",
  video: "The face alone",
  audio: "The voice alone",
  "": "Neither face nor voice",
};
const WARNINGS = {
  no_audio: "The clip has no sound.",
  silent_audio: "The sound is silent.",
  no_video: "The clip has no picture.",
  no_face: "No face was found in the picture.",
  unfamiliar_face: "The face is unlike those it was trained on: its details were left aside.",
  sound_cut: "The sound is longer than the model hears: its end was left out.",
  truncated: "The file ends early.",
};

const $ = (id) => document.getElementById(id);

/** An element that holds text and nothing else, whatever the model wrote. */
function made(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Show the record of an answer, or none; `pick(index)` is called when a claim with a time is pressed. */
export function show(emotion, pick) {
  $("nothing").hidden = Boolean(emotion);
  $("answer").hidden = !emotion;
  $("senses").open = false;
  $("senses-of").replaceChildren();
  if (!emotion) return;
  $("label").textContent = emotion.label;
  $("confidence").textContent = `probability ${emotion.confidence.toFixed(2)}`;
  $("bars").replaceChildren(...ranked(emotion.labels).map(([label, p]) => bar(label, p, label === emotion.label)));
  $("reasons").replaceChildren(...reasons(emotion, pick));
  $("facts").replaceChildren(...facts(emotion).map((text) => made("li", "", text)));
}

/** Mark the claim whose moment the player shows. */
export function mark(index) {
  for (const button of $("reasons").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.index) === index));
  }
}

function ranked(labels) {
  return Object.entries(labels).sort((a, b) => b[1] - a[1]);
}

function bar(label, probability, isAnswer) {
  const row = made("li", isAnswer ? "best" : "");
  row.append(made("span", "", label), track(probability), made("span", "number", probability.toFixed(2)));
  return row;
}

function track(probability) {
  const [outer, inner] = [made("span", "bar"), made("span", "")];
  inner.style.width = `${100 * probability}%`;
  outer.append(inner);
  return outer;
}

/** The sentences of the thought, each with the claims that were found in it. */
function reasons({ thought, evidence }, pick) {
  if (!thought) return [made("li", "dim", "It was not asked for reasons.")];
  return sentences(thought, evidence).map(({ text, claims }) => {
    const item = made("li", "", text);
    const list = made("span", "claims");
    list.append(...claims.map((index) => chip(evidence[index], index, pick)));
    if (claims.length) item.append(list);
    return item;
  });
}

/** The thought in parts: [{ text, claims: indices of its claims }]. */
function sentences(thought, evidence) {
  const parts = [];
  let rest = thought;
  evidence.forEach(({ sentence }, index) => {
    if (parts.at(-1)?.text === sentence) {
      parts.at(-1).claims.push(index);
      return;
    }
    const at = rest.indexOf(sentence);
    if (rest.slice(0, at).trim()) parts.push({ text: rest.slice(0, at).trim(), claims: [] });
    rest = rest.slice(at + sentence.length);
    parts.push({ text: sentence, claims: [index] });
  });
  return rest.trim() ? [...parts, { text: rest.trim(), claims: [] }] : parts;
}

/** A claim with its verdict: a button if there is a moment to go to. */
function chip(claim, index, pick) {
  const timed = claim.t0 !== null;
  const element = made(timed ? "button" : "span", `chip ${claim.verdict}`);
  const word = claim.verdict === "uncheckable" ? "cannot be checked" : claim.verdict;
  element.append(made("span", "mark", MARKS[claim.verdict]), made("span", "unseen", `${word}: `), nameOf(claim));
  element.title = `${claim.modality}: ${word}`;
  if (timed) {
    element.type = "button";
    element.dataset.index = index;
    element.setAttribute("aria-pressed", "false");
    element.append(made("span", "time", timeOf(claim)));
    element.addEventListener("click", () => pick(index));
  }
  return element;
}

function facts({ label, labels, modalities, warnings, duration_s, transcript, well_formed }) {
  const [[first]] = ranked(labels);
  return [
    ...(first === label ? [] : [`At once, without the reasons, the answer would be “${first}”.`]),
    `${JUDGED[modalities.join()]}${duration_s ? `, ${duration_s.toFixed(1)} s` : ""}.`,
    ...(transcript ? [`Words heard: “${transcript}”`] : []),
    ...warnings.map((code) => WARNINGS[code] ?? `${code.replaceAll("_", " ")}.`),
    ...(well_formed ? [] : ["The model's text was not of the form it was asked for; the label is the most probable one."]),
  ];
}

/** The probabilities from each sense by itself; `ask(senses)` gives those of some. */
export async function showSenses({ label, labels, modalities }, ask) {
  const place = $("senses-of");
  place.replaceChildren(made("p", "dim", "Looking and listening again…"));
  const there = SENSES.filter(({ of }) => of.every((sense) => modalities.includes(sense)));
  try {
    const columns = [];
    for (const { of } of there) columns.push(await ask(of));
    const remark = "Without thinking first, so “both” may differ from the answer above.";
    const share = columns.length === 3 ? [made("p", "", shareOf(label, ...columns))] : [];
    place.replaceChildren(sensesTable(labels, there, columns), ...share, made("p", "dim", remark));
  } catch (error) {
    place.replaceChildren(made("p", "", error.message));
  }
}

/** What each sense gives to a label, as `omni ask --receipt`: how much less likely it is without that sense. */
function shareOf(label, both, picture, sound) {
  const drop = (without) => Math.max(0, Math.log(both[label] / Math.max(without[label], 1e-12)));
  const seen = drop(sound);
  const heard = drop(picture);
  if (!seen && !heard) return `“${label}” is no less likely without either sense.`;
  const percent = (part) => `${Math.round((100 * part) / (seen + heard))} %`;
  return `Share in “${label}”: picture ${percent(seen)}, sound ${percent(heard)}.`;
}

function sensesTable(labels, there, columns) {
  const head = made("tr", "");
  head.append(made("td", ""), ...there.map(({ name }) => made("th", "", name)));
  const rows = ranked(labels).map(([label]) => {
    const row = made("tr", "");
    const cells = columns.map((column) => {
      const cell = made("td", "");
      cell.append(track(column[label]), made("span", "number", column[label].toFixed(2)));
      return cell;
    });
    row.append(made("th", "", label), ...cells);
    return row;
  });
  const table = made("table", "");
  table.append(head, ...rows);
  return table;
}
