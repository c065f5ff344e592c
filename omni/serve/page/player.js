// The clip and its line of time: frames, cues of face and voice, the sound wave, the position. All made in the browser
// from the file that the user gave.

const FRAMES = 8;
const WAVE_BYTES = 64 * 2 ** 20; // a longer file is not decoded for its wave: it would take gigabytes of memory
const WAVE_RATE = 8000; // Hz; far more than the line has pixels
const PATIENCE = 4000; // ms for the browser to find a frame or an end

const $ = (id) => document.getElementById(id);
const video = $("video");
let clip = 0; // counts the clips, so that what is drawn of an earlier one is not put beside a later one
let length = 0; // seconds
let spans = []; // index of a claim → its button

/** Show a file; what was shown before is let go. */
export async function open(file) {
  const mine = ++clip;
  close();
  const url = URL.createObjectURL(file);
  const still = file.type.startsWith("image/");
  $("player").hidden = false;
  $("picture").hidden = !still;
  video.hidden = still;
  if (still) {
    $("picture").src = url;
    return;
  }
  video.src = url;
  const [found, wave] = await Promise.all([lengthOf(video), waveOf(file)]);
  if (mine !== clip) return;
  $("unplayable").hidden = found !== null;
  video.hidden = found === null;
  $("player").classList.toggle("sound", !video.videoWidth);
  setLength(found ?? wave.seconds ?? 0);
  drawWave(wave);
  if (video.videoWidth) await drawFrames(url, () => mine === clip);
}

function close() {
  for (const media of [video, $("picture")]) {
    if (media.src) URL.revokeObjectURL(media.src);
    media.removeAttribute("src");
  }
  video.load();
  setLength(0);
  show([]);
  $("unplayable").hidden = true;
}

/** Put the claims that have a time on the line; `pick(index)` is called when one is pressed. */
export function show(evidence, seconds = 0, pick = () => {}) {
  if (!length && seconds) setLength(seconds);
  $("moment").hidden = true;
  spans = [];
  for (const sense of ["face", "voice"]) {
    const rows = []; // where each row ends, in seconds
    $(sense).replaceChildren();
    evidence.forEach((claim, index) => {
      if (claim.modality !== sense || claim.t0 === null || !length) return;
      const wide = Math.max(claim.t1 - claim.t0, 0.24 * length); // room for its name
      const start = Math.min(claim.t0, length - wide);
      const free = rows.findIndex((end) => end <= start);
      const row = free < 0 ? rows.length : free;
      rows[row] = start + wide;
      spans[index] = span(claim, index, start, wide, row, pick);
      $(sense).append(spans[index]);
    });
    $(sense).style.height = `${1.75 * Math.max(1, rows.length)}rem`;
  }
}

function span(claim, index, start, wide, row, pick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = `span ${claim.modality}`;
  button.textContent = nameOf(claim);
  button.title = `${nameOf(claim)}, ${timeOf(claim)}`;
  button.style.left = `${(100 * start) / length}%`;
  button.style.width = `${(100 * wide) / length}%`;
  button.style.top = `${1.75 * row}rem`;
  button.addEventListener("click", () => pick(index));
  return button;
}

/** Go to the moment of a claim, and mark it on the line. */
export function goTo(claim, index) {
  video.currentTime = claim.t0;
  spans.forEach((button, other) => button.classList.toggle("picked", other === index));
  const moment = $("moment");
  moment.hidden = !length;
  moment.style.left = `${(100 * claim.t0) / length}%`;
  moment.style.width = `${(100 * Math.max(claim.t1 - claim.t0, 0.005 * length)) / length}%`;
  $("player").scrollIntoView({ block: "nearest" });
}

/** The words for a claim: "brow down", or "no smile" for one that denies it. */
export function nameOf(claim) {
  return `${claim.polarity < 0 ? "no " : ""}${claim.cue.replaceAll("_", " ")}`;
}

/** When a claim holds: "0.5–2.1 s". */
export function timeOf(claim) {
  return `${claim.t0.toFixed(1)}–${claim.t1.toFixed(1)} s`;
}

function setLength(seconds) {
  length = seconds;
  $("timeline").hidden = !seconds;
  $("position").max = seconds;
  move();
}

/** Let the line follow the player. */
function move() {
  const now = Math.min(video.currentTime, length);
  $("head").style.left = `${length ? (100 * now) / length : 0}%`;
  $("position").value = now;
  $("position").setAttribute("aria-valuetext", `${now.toFixed(1)} of ${length.toFixed(1)} seconds`);
  $("clock").textContent = `${now.toFixed(1)} s`;
}

function follow() {
  move();
  if (!video.paused) requestAnimationFrame(follow);
}

video.addEventListener("play", follow);
for (const event of ["seeking", "timeupdate"]) video.addEventListener(event, move);
$("position").addEventListener("input", () => (video.currentTime = Number($("position").value)));
for (const id of ["frames", "wave"]) {
  $(id).addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    video.currentTime = (length * (event.clientX - box.left)) / box.width;
  });
}

/** Seconds of a clip, or null if the browser cannot play it. */
async function lengthOf(media) {
  if (!(await happens(media, "loadedmetadata"))) return null;
  if (media.duration === Infinity) {
    // a recording does not say how long it is; a jump past its end makes the browser find out
    media.currentTime = 1e7;
    for (let turn = 0; turn < 3 && media.duration === Infinity; turn++) await happens(media, "durationchange");
    media.currentTime = 0;
  }
  return Number.isFinite(media.duration) ? media.duration : null;
}

/** Wait for an event; false if there is an error in its place, or nothing for a while. */
function happens(media, event) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, PATIENCE, false);
    const end = (value) => () => (clearTimeout(timer), resolve(value));
    media.addEventListener(event, end(true), { once: true });
    media.addEventListener("error", end(false), { once: true });
  });
}

async function waveOf(file) {
  if (file.size > WAVE_BYTES) return { why: "The file is too large to draw its sound." };
  try {
    const sound = await new OfflineAudioContext(1, 1, WAVE_RATE).decodeAudioData(await file.arrayBuffer());
    return { samples: sound.getChannelData(0), seconds: sound.duration };
  } catch {
    return { why: "No sound that this browser can decode." };
  }
}

function drawWave({ samples, why = "" }) {
  const canvas = $("wave");
  canvas.hidden = !samples;
  $("no-wave").hidden = Boolean(samples);
  $("no-wave").textContent = why;
  if (!samples) return;
  const { pen, width, height } = penOf(canvas);
  const count = Math.floor(width / 3); // bars of two pixels, one apart
  const peaks = Array.from({ length: count }, (_, i) => {
    let peak = 0;
    const [from, to] = [i, i + 1].map((n) => Math.floor((n * samples.length) / count));
    for (let at = from; at < to; at++) peak = Math.max(peak, Math.abs(samples[at]));
    return peak;
  });
  const loudest = Math.max(...peaks, 1e-3);
  pen.fillStyle = getComputedStyle(canvas).color;
  peaks.forEach((peak, i) => {
    const half = Math.max(0.75, (peak / loudest) * (height / 2 - 1));
    pen.fillRect((i * width) / count, height / 2 - half, 2, 2 * half);
  });
}

async function drawFrames(url, wanted) {
  const { pen, width, height } = penOf($("frames"));
  const reader = document.createElement("video");
  reader.muted = true;
  reader.preload = "auto";
  reader.src = url;
  if (!(await happens(reader, "loadeddata"))) return;
  const cell = width / FRAMES;
  for (let i = 0; i < FRAMES; i++) {
    reader.currentTime = ((i + 0.5) * length) / FRAMES;
    if (!(await happens(reader, "seeked")) || !wanted()) return;
    const scale = Math.max(cell / reader.videoWidth, height / reader.videoHeight);
    const [w, h] = [cell / scale, height / scale]; // the middle of the frame that fills its cell
    const [x, y] = [(reader.videoWidth - w) / 2, (reader.videoHeight - h) / 2];
    const draw = () => pen.drawImage(reader, x, y, w, h, i * cell, 0, cell - 1, height);
    draw();
    for (let turn = 0; turn < 20 && isEmpty(pen, i * cell + cell / 2, height / 2); turn++) {
      await new Promise((resolve) => setTimeout(resolve, 50)); // a busy browser may say "seeked" before it has the frame
      draw();
    }
  }
}

function isEmpty(pen, x, y) {
  const { a, d } = pen.getTransform();
  return pen.getImageData(Math.floor(a * x), Math.floor(d * y), 1, 1).data[3] === 0;
}

/** A canvas that is as sharp as the screen, measured in CSS pixels. */
function penOf(canvas) {
  const sharp = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * sharp));
  canvas.height = Math.max(1, Math.round(height * sharp));
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.scale(sharp, sharp);
  return { pen, width, height };
}
