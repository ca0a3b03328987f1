// The page: sends a sound to its server, draws what comes back, moves a cursor along while the sound plays.

import {$, draw, element, percent} from "./shared.js";

const seconds = s => `${s < 10 ? s.toFixed(2) : s.toFixed(1)} s`;
const megabytes = (bytes, digits = 1) => `${(bytes / 1e6).toFixed(digits)} MB`;
const LONGEST_RECORDING_MS = 60_000, LOCAL_DECODING_BYTES = 20_000_000;

let model = null;  // what /api/model says
let shown = null;  // the answer on the page
let until = Infinity;  // where an event that is played ends
let asking = new AbortController();

async function start() {
  const reply = await fetch("api/model");
  model = await reply.json();
  const some = model.labels.slice(0, 12).join(", ") + (model.labels.length > 12 ? ", …" : "");
  $("about").textContent = `The model tells ${model.labels.length} classes apart (${some}) `
    + `and hears ${seconds(model.window_s)} at a time.`;
  $("limits").textContent = "wav, flac, ogg, mp3 and more; "
    + `at most ${megabytes(model.upload_bytes, 0)} and ${Math.round(model.sound_s / 60)} minutes.`;
}

// ---- from a file to an answer

async function tag(sound, name) {
  asking.abort();
  asking = new AbortController();
  const mine = asking;
  say(`Listening to ${name} …`);
  try {
    const answer = await ask(sound, mine.signal, model?.judges_steps);
    show(answer, sound, name);
    say(`${name}: ` + answer.tags.slice(0, 3).map(t => `${t.label} ${percent(t.score)}`).join(", "));
  } catch (error) {
    if (mine.signal.aborted) return;  // another sound was chosen meanwhile
    say("");
    $("result").hidden = true;
    $("error").textContent = `${name}: ${error.message}`;
  }
}

async function ask(sound, signal, events) {
  if (model && sound.size > model.upload_bytes)
    throw new Error(`it has ${megabytes(sound.size)}, and ${megabytes(model.upload_bytes)} is the most: `
      + "cut or compress it");
  let reply = await post(sound, signal, events);
  if (reply.status === 415 && sound.size < LOCAL_DECODING_BYTES) {
    // m4a and webm are known to browsers, and not to the server's decoder
    const wav = await decodedHere(sound);
    if (wav) reply = await post(wav, signal, events);
  }
  const answer = await reply.json();
  if (!reply.ok) throw new Error(answer.error);
  return answer;
}

async function post(body, signal, events) {
  try {
    const path = `api/tags?spectrogram=true&events=${Boolean(events)}`;
    return await fetch(path, {method: "POST", body, signal});
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("the server does not answer: is it still running?");
  }
}

async function decodedHere(sound) {
  try {
    const audio = await new OfflineAudioContext(1, 1, model?.sample_rate_hz ?? 16000).decodeAudioData(await sound.arrayBuffer());
    return audio.duration > (model?.sound_s ?? 600) ? null : wavOf(audio);
  } catch {
    return null;  // not known here either: the server's own words stand
  }
}

function wavOf(audio) {
  const mono = new Float32Array(audio.length);
  for (let c = 0; c < audio.numberOfChannels; c++)
    audio.getChannelData(c).forEach((sample, i) => { mono[i] += sample / audio.numberOfChannels; });
  const view = new DataView(new ArrayBuffer(44 + 2 * mono.length));
  const text = (at, s) => [...s].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * mono.length, true);
  text(8, "WAVEfmt "); view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); view.setUint16(22, 1, true); view.setUint32(24, audio.sampleRate, true);
  view.setUint32(28, 2 * audio.sampleRate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * mono.length, true);
  mono.forEach((sample, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, sample)), true));
  return new Blob([view], {type: "audio/wav"});
}

// ---- recording

let recorder = null;

async function record() {
  if (recorder) return recorder.stop();
  say("");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({audio: true}), parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach(track => track.stop());
      recorder = null;
      pressed(false);
      const wav = await decodedHere(new Blob(parts));
      if (wav) tag(wav, "your recording");
      else $("error").textContent = "The recording holds no sound: try again.";
    };
    recorder.start();
    pressed(true);
    say("Recording. Press the button again to stop.");
    setTimeout(() => recorder?.state === "recording" && recorder.stop(), LONGEST_RECORDING_MS);
  } catch (error) {
    recorder = null;
    $("error").textContent = `No microphone: ${error.message}`;
  }
}

function pressed(on) {
  $("record").setAttribute("aria-pressed", on);
  $("record").textContent = on ? "Stop recording" : "Record";
}

// ---- from an answer to the page

function say(words) {
  $("status").textContent = words;
  $("error").textContent = "";
}

function show(answer, sound, name) {
  shown = answer;
  $("name").textContent = name;
  $("tags").replaceChildren(...answer.tags.map(({label, score}) => {
    const filled = element("i"), bar = element("div", {className: "bar", role: "meter"}, filled);
    filled.style.width = `${100 * score}%`;
    const told = {label, valuemin: 0, valuemax: 1, valuenow: score, valuetext: percent(score)};
    for (const [name, value] of Object.entries(told)) bar.setAttribute(`aria-${name}`, value);
    const words = [label, percent(score)].map(text => element("span", {textContent: text}));
    return element("li", {}, ...words, bar);
  }));
  draw($("spectrogram"), answer.spectrogram);
  const pictured = `Spectrogram of ${name}, ${seconds(answer.duration_s)}, 20 Hz to 8 kHz`;
  $("spectrogram").setAttribute("aria-label", pictured);
  $("timeline").replaceChildren(...answer.timeline.labels.map(track));
  $("table").replaceChildren(...table(answer.timeline));
  showEvents(answer.events);
  $("find").onclick = () => findEvents(sound, name);
  URL.revokeObjectURL($("player").src);
  $("silent").hidden = true;
  $("player").src = URL.createObjectURL(sound);
  $("seek").max = answer.duration_s;
  $("length").textContent = seconds(answer.duration_s);
  $("result").hidden = false;
  moveTo(0);
}

// Windows overlap: each is drawn where its centre is the nearest one.
function edges({starts_s, ends_s}, duration_s) {
  const centres = starts_s.map((start, i) => (start + ends_s[i]) / 2);
  return [0, ...centres.slice(1).map((centre, i) => (centre + centres[i]) / 2), duration_s];
}

function track({label, scores}) {
  const bounds = edges(shown.timeline, shown.duration_s), best = scores.indexOf(Math.max(...scores));
  const strip = element("div", {className: "strip", role: "img"}, ...scores.map((score, i) => {
    const cell = element("i");
    cell.style.flexGrow = bounds[i + 1] - bounds[i];
    cell.style.opacity = score;
    return cell;
  }));
  const {starts_s, ends_s} = shown.timeline;
  const when = `from ${seconds(starts_s[best])} to ${seconds(ends_s[best])}`;
  strip.setAttribute("aria-label", `${label}: strongest, ${percent(scores[best])}, ${when}`);
  return element("div", {className: "track"}, element("span", {textContent: label}), strip);
}

function table({starts_s, ends_s, labels}) {
  const head = (text, scope) => element("th", {textContent: text, scope});
  const names = ["from, to", ...labels.map(({label}) => label)];
  const top = element("thead", {}, element("tr", {}, ...names.map(name => head(name, "col"))));
  const rows = starts_s.map((start, i) => element("tr", {},
    head(`${start.toFixed(2)} to ${seconds(ends_s[i])}`, "row"),
    ...labels.map(({scores}) => element("td", {textContent: percent(scores[i])}))));
  return [top, element("tbody", {}, ...rows)];
}

// ---- events

// Of a model that judges clips alone, when it is asked for: many short windows take their time.
async function findEvents(sound, name) {
  const mine = asking;
  $("find").disabled = true;
  say(`Listening to ${name} in short windows …`);
  try {
    const {events} = await ask(sound, mine.signal, true);
    showEvents(events);
    say(`${name}: ${counted(events)}`);
  } catch (error) {
    if (mine.signal.aborted) return;
    say("");
    $("error").textContent = `${name}: ${error.message}`;
  } finally {
    $("find").disabled = false;
  }
}

const counted = events => `${events.length || "no"} event${events.length === 1 ? "" : "s"}`;

function showEvents(events) {
  until = Infinity;
  $("find").hidden = Boolean(events);
  $("events-note").textContent = events ? `${counted(events)}; press one to hear it.`
    : "This model judges whole clips: to say when, it listens to many short windows.";
  $("events").replaceChildren(...(events ?? []).map(event => {
    const button = element("button", {type: "button"}, ...[
      event.label, `${event.onset_s.toFixed(2)} to ${seconds(event.offset_s)}`, percent(event.score),
    ].map(text => element("span", {textContent: text})));
    button.addEventListener("click", () => play(event, button));
    return element("li", {}, button);
  }));
  const labels = [...new Set((events ?? []).map(({label}) => label))];
  $("marks").replaceChildren(...labels.map(label => marks(label, events.filter(e => e.label === label))));
  URL.revokeObjectURL($("labels").href);
  $("labels").hidden = !events?.length;
  const line = ({onset_s, offset_s, label}) => `${onset_s.toFixed(6)}\t${offset_s.toFixed(6)}\t${label}\n`;
  if (events?.length) $("labels").href = URL.createObjectURL(new Blob(events.map(line), {type: "text/plain"}));
}

function marks(label, events) {
  const strip = element("div", {className: "strip marks", role: "img"}, ...events.map(event => {
    const mark = element("i");
    mark.style.left = `${100 * event.onset_s / shown.duration_s}%`;
    mark.style.width = `${100 * (event.offset_s - event.onset_s) / shown.duration_s}%`;
    return mark;
  }));
  strip.setAttribute("aria-label", `${label}: ${counted(events)}`);
  return element("div", {className: "track"}, element("span", {textContent: `${label}, ${counted(events)}`}), strip);
}

function play({onset_s, offset_s}, button) {
  document.querySelectorAll("#events [aria-current]").forEach(one => one.removeAttribute("aria-current"));
  button.setAttribute("aria-current", true);
  seekTo(onset_s);
  until = offset_s;
  $("player").play().catch(() => {});  // a format that is not known here: the player says so itself
}

// ---- playing

function moveTo(at) {
  const {duration_s, timeline} = shown, bounds = edges(timeline, duration_s);
  const here = Math.max(0, bounds.findIndex(bound => bound > at) - 1);
  const best = timeline.labels.reduce((a, b) => b.scores[here] > a.scores[here] ? b : a);
  $("cursor").style.left = `${100 * Math.min(1, at / duration_s)}%`;
  $("seek").value = at;
  $("now").textContent = `${seconds(at)}: ${best.label} ${percent(best.scores[here])}`;
  $("seek").setAttribute("aria-valuetext", $("now").textContent);
}

function follow() {
  if ($("player").currentTime >= until) {
    $("player").pause();
    until = Infinity;
  }
  moveTo($("player").currentTime);
  if (!$("player").paused) requestAnimationFrame(follow);
}

function seekTo(at) {
  until = Infinity;
  if (!Number.isNaN($("player").duration)) $("player").currentTime = at;
  moveTo(at);
}

$("player").addEventListener("play", follow);
$("player").addEventListener("error", () => { $("silent").hidden = !$("player").getAttribute("src"); });
$("seek").addEventListener("input", () => seekTo(Number($("seek").value)));
$("tracks").addEventListener("pointerdown", event => {
  const box = $("tracks").getBoundingClientRect();
  seekTo(shown.duration_s * Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)));
});
const tagFirst = files => files[0] && tag(files[0], files[0].name);
$("file").addEventListener("change", () => tagFirst($("file").files));
$("record").addEventListener("click", record);
for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, event => {
  event.preventDefault();
  document.body.classList.add("over");
});
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, event => {
  event.preventDefault();
  document.body.classList.remove("over");
});
document.addEventListener("drop", event => tagFirst(event.dataTransfer.files));
start().catch(() => { $("error").textContent = "The server does not answer: is it still running?"; });
