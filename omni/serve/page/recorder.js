// Camera and microphone: off until the button under the line about consent is pressed, and off again afterwards.

const SECONDS = 30; // of a recording at most; what the model hears
const KINDS = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];

const $ = (id) => document.getElementById(id);

let running = null; // the MediaRecorder while it records
let wanted = false; // whether its recording is to be kept

/** Wire the buttons; `done(file)` is called with each recording. */
export function wire(done) {
  $("record").addEventListener("click", () => ($("recorder").hidden ? open() : close()));
  $("start").addEventListener("click", () => record(done).catch((error) => say(reason(error))));
  $("finish").addEventListener("click", () => running?.stop());
}

function open() {
  $("recorder").hidden = false;
  $("record").setAttribute("aria-expanded", "true");
  say("");
  $("start").focus();
}

/** Put the recorder away; what is being recorded is thrown away. */
export function close() {
  wanted = false;
  running?.stop();
  $("recorder").hidden = true;
  $("record").setAttribute("aria-expanded", "false");
}

function say(text) {
  $("recording").textContent = text;
}

function reason(error) {
  if (!navigator.mediaDevices) return "A browser gives camera and microphone to pages of this machine and to https alone.";
  if (error.name === "NotAllowedError") return "Camera and microphone were not allowed.";
  if (error.name === "NotFoundError") return "No camera or microphone was found.";
  return `It cannot be recorded (${error.message}).`;
}

async function record(done) {
  wanted = true;
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: true });
  const recorder = new MediaRecorder(stream, { mimeType: KINDS.find((kind) => MediaRecorder.isTypeSupported(kind)) });
  const parts = [];
  const clock = countdown(() => recorder.stop());
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  recorder.addEventListener("stop", () => {
    clearInterval(clock);
    for (const track of stream.getTracks()) track.stop();
    view(null);
    running = null;
    if (!wanted) return;
    const type = recorder.mimeType.split(";")[0];
    done(new File(parts, `recording.${type.split("/")[1]}`, { type }));
  });
  running = recorder;
  view(stream);
  recorder.start();
  if (!wanted) recorder.stop(); // put away while the browser asked for permission
}

function countdown(end) {
  let seconds = 0;
  say("Recording");
  return setInterval(() => {
    seconds += 1;
    say(`Recording, ${seconds} of ${SECONDS} s`);
    if (seconds === SECONDS) end();
  }, 1000);
}

function view(stream) {
  $("live").srcObject = stream;
  $("live").hidden = $("finish").hidden = !stream;
  $("start").hidden = Boolean(stream);
  if (stream) {
    $("finish").focus();
  } else {
    say("");
  }
}
