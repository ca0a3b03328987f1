// The page of `label`: shows a clip, hears keys, sends the answer, shows the next one.

import {$, draw, element, percent} from "./shared.js";

const page = `${performance.timeOrigin}-${Math.random()}`.slice(0, 40);
let shown = null;  // the clip on the page
let offered = [];  // classes in the order of their keys
let busy = false;  // an answer is under way: keys wait for the next clip

async function post(what, body = {}) {
  const reply = await fetch(`api/${what}`, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({page, ...body}),
  });
  return [reply, await reply.json()];
}

async function ask(what, body) {
  if (busy) return;
  busy = true;
  try {
    const [reply, told] = await post(what, body);
    if (reply.ok) return show(told);
    if (reply.status === 409) show((await post("next"))[1]);  // another page was quicker
    $("error").textContent = told.error;
  } catch {
    $("error").textContent = "The server does not answer: is it still running? What was answered is in its table.";
  } finally {
    busy = false;
  }
}

function show(told) {
  $("error").textContent = "";
  const left = told.clips - told.answers - told.skipped;
  $("standing").textContent = `${told.answers} of ${told.clips} clips labelled, ${told.held_out} of them held out`
    + (told.skipped ? `, ${told.skipped} skipped` : "") + (left ? "" : ": all are done");
  showCurve(told);
  if (!told.shown) {
    $("clip").hidden = left > 0 ? $("clip").hidden : true;
    if (left > 0) $("error").textContent = "Nothing to take back, or other pages show all that is left.";
    return;
  }
  shown = told.shown;
  $("clip").hidden = false;
  $("name").textContent = shown.name;
  $("why").textContent = shown.why;
  const guessed = shown.guesses.map(({label}) => label), counts = new Map(told.classes.map(c => [c.label, c.count]));
  offered = [...guessed, ...told.classes.map(({label}) => label).filter(label => !guessed.includes(label))];
  $("classes").replaceChildren(...offered.map((label, i) => {
    const share = shown.guesses.find(guess => guess.label === label)?.share;
    const words = [i < 9 ? `${i + 1}` : "", label, share === undefined ? "" : percent(share), `${counts.get(label) ?? 0}`];
    const button = element("button", {type: "button"}, ...words.map(text => element("span", {textContent: text})));
    button.setAttribute("aria-label", `${label}, ${counts.get(label) ?? 0} clips so far`);
    button.addEventListener("click", () => answer(label));
    return element("li", {}, button);
  }));
  $("label").value = "";
  $("player").src = `api/clips/${shown.clip}/sound`;
  $("player").play().catch(() => {});  // browsers want a key or a click first
  picture(shown);
}

async function picture({clip, name}) {
  const reply = await fetch(`api/clips/${clip}/spectrogram`);
  if (!reply.ok || clip !== shown.clip) return;
  draw($("spectrogram"), await reply.json());
  $("spectrogram").setAttribute("aria-label", `Spectrogram of ${name}`);
}

function showCurve({curve, groups}) {
  $("curve").toggleAttribute("hidden", !curve.length);  // an svg has no such property
  if (!curve.length) return;
  const last = curve.at(-1), x = n => 400 * n / last.answers, y = share => 119 - 118 * share;
  $("line").setAttribute("d", curve.map(({answers, accuracy}, i) =>
    `${i ? "L" : "M"}${x(answers).toFixed(1)} ${y(accuracy).toFixed(1)}`).join(""));
  $("curve-words").textContent = `After ${last.answers} answers: ${percent(last.accuracy)} of the clips held out`
    + (groups ? ", whole groups." : ". Pieces of one recording may stand on both sides and flatter it: see --group.");
  $("curve").setAttribute("aria-label", $("curve-words").textContent);
}

const answer = label => shown && label && ask("answer", {clip: shown.clip, label});
const keys = {
  " ": () => $("player").paused ? $("player").play() : $("player").pause(),
  enter: () => shown?.guesses.length && answer(offered[0]),
  n: () => $("label").focus(),
  s: () => shown && ask("skip", {clip: shown.clip}),
  u: () => ask("undo"),
  m: () => shown && ask("next", {like: shown.clip}),
};
for (let digit = 1; digit < 10; digit++) keys[digit] = () => answer(offered[digit - 1]);

document.addEventListener("keydown", event => {
  const own = event.target.closest("input, button, audio, summary");
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input") || (own && [" ", "Enter"].includes(event.key))) return;
  const act = keys[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});
$("new").addEventListener("submit", event => {
  event.preventDefault();
  const label = $("label").value.trim();
  $("label").blur();
  answer(label);
});
$("label").addEventListener("keydown", event => event.key === "Escape" && $("label").blur());
$("skip").addEventListener("click", keys.s);
$("undo").addEventListener("click", keys.u);
$("like").addEventListener("click", keys.m);
ask("next");
