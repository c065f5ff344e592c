// Camera and microphone: off until the button under the line about consent is pressed, and off again afterwards.

const SECONDS = 30; // of a recording at most; what the model hears
const KINDS = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];

const $ = (id) => document.getElementById(id);

/** Wire the buttons; `done(file)` is called with each recording. */
export function wire(done) {
  $("record").addEventListener("click", () => {
    $("recorder").hidden = !$("recorder").hidden;
    $("record").setAttribute("aria-expanded", String(!$("recorder").hidden));
    if (!$("recorder").hidden) $("start").focus();
  });
  $("start").addEventListener("click", () => record(done).catch((error) => say(reason(error))));
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
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: true });
  const recorder = new MediaRecorder(stream, { mimeType: KINDS.find((kind) => MediaRecorder.isTypeSupported(kind)) });
  const parts = [];
  let seconds = 0;
  const clock = setInterval(() => {
    seconds += 1;
    say(`Recording, ${seconds} of ${SECONDS} s`);
    if (seconds === SECONDS) recorder.stop();
  }, 1000);
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  recorder.addEventListener("stop", () => {
    clearInterval(clock);
    for (const track of stream.getTracks()) track.stop();
    view(null);
    $("record").click(); // closes the recorder
    const type = recorder.mimeType.split(";")[0];
    done(new File(parts, `recording.${type.split("/")[1]}`, { type }));
  });
  $("finish").onclick = () => recorder.stop();
  recorder.start();
  view(stream);
}

function view(stream) {
  say(stream ? "Recording" : "");
  $("live").srcObject = stream;
  $("live").hidden = $("finish").hidden = !stream;
  $("start").hidden = Boolean(stream);
  if (stream) {
    $("live").play();
    $("finish").focus();
  }
}
