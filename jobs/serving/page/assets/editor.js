const none = element.querySelector(".ss-none");
const body = element.querySelector(".ss-body");
const area = element.querySelector(".ss-area");
let audio = element.querySelector("audio");
const chips = element.querySelector(".ss-chips");
const from = element.querySelector(".ss-from");
const to = element.querySelector(".ss-to");
const LEAST = 0.01;
let card = null;
let regions = [];
let frame = null;
let begun = null;
pauseOtherPlayers(element);

const round = (seconds) => Math.round(1000 * seconds) / 1000;

/** Regions in order, with overlapping or touching ones merged. */
function merged(stretches) {
  const found = [];
  for (const [start, end] of [...stretches].sort((one, other) => one[0] - other[0])) {
    const last = found[found.length - 1];
    if (last && start <= last[1]) last[1] = Math.max(last[1], end); else found.push([start, end]);
  }
  return found;
}

function drawRegions() {
  for (const old of frame.querySelectorAll(".ss-region")) old.remove();
  for (const [start, end] of regions) {
    const style = "left:" + (100 * start) / card.duration_s + "%;width:" + (100 * (end - start)) / card.duration_s + "%";
    frame.append(make("i", {class: "ss-region", style}));
  }
  chips.replaceChildren(...regions.map(([start, end], place) => {
    const words = start + "–" + end + " s";
    const chip = make("button", {type: "button", class: "ss-button ss-chip", "aria-label": "Unmark " + words}, words + " ✕");
    chip.addEventListener("click", () => mark(regions.filter((_, other) => other !== place)));
    return chip;
  }));
}

function mark(stretches) {
  regions = merged(stretches.map(([start, end]) => [round(start), Math.min(round(end), Math.floor(1000 * card.duration_s) / 1000)])
    .filter(([start, end]) => end - start >= LEAST));
  drawRegions();
  trigger("mark_stretches", {regions});
}

function press(event) {
  if (event.button) return;
  begun = {at: secondsAt(event, frame, card.duration_s), x: event.clientX, mark: make("i", {class: "ss-region"})};
  frame.append(begun.mark);
  frame.setPointerCapture(event.pointerId);
}

function drag(event) {
  if (!begun) return;
  const ends = [begun.at, secondsAt(event, frame, card.duration_s)].sort((one, other) => one - other);
  begun.mark.style.left = (100 * ends[0]) / card.duration_s + "%";
  begun.mark.style.width = (100 * (ends[1] - ends[0])) / card.duration_s + "%";
}

function release(event) {
  if (!begun) return;
  const ends = [begun.at, secondsAt(event, frame, card.duration_s)].sort((one, other) => one - other);
  const isDrag = Math.abs(event.clientX - begun.x) > 3;
  begun.mark.remove();
  begun = null;
  if (isDrag && event.type === "pointerup") mark([...regions, ends]); else audio.currentTime = ends[0];
}

/** Show the state from the server: another sound, or other regions of this one. */
function show() {
  const value = props.value;
  regions = value ? value.regions : [];
  if (value && card && value.card.id === card.id) drawRegions(); else setCard(value ? value.card : null);
  if (!value || !value.chosen) return;
  element.querySelector("h3").focus({preventScroll: true});
  element.scrollIntoView({block: "nearest"});
}

function setCard(wanted) {
  card = wanted;
  none.hidden = card !== null;
  body.hidden = card === null;
  from.dataset.at = "";
  audio.pause();
  if (!card) return;
  element.querySelector("h3").textContent = card.title;
  element.querySelector(".ss-facts").textContent = card.facts;
  const shown = picture(card);
  area.replaceChildren(shown);
  frame = shown.querySelector(".ss-frame");
  frame.addEventListener("pointerdown", press);
  frame.addEventListener("pointermove", drag);
  frame.addEventListener("pointerup", release);
  frame.addEventListener("pointercancel", release);
  const player = make("audio", {controls: true, preload: "auto", src: card.audio, "aria-label": "Play " + card.title + ", which is edited"});
  audio.replaceWith(player);
  audio = player;
  follow(audio, shown, card.duration_s);
  drawRegions();
}

from.addEventListener("click", () => {
  from.dataset.at = audio.currentTime;
  from.textContent = "Mark from " + audio.currentTime.toFixed(2) + " s";
});
to.addEventListener("click", () => {
  const start = Number(from.dataset.at || 0);
  from.textContent = "Mark from here";
  from.dataset.at = "";
  mark([...regions, [Math.min(start, audio.currentTime), Math.max(start, audio.currentTime)]]);
});
watch("value", show);
show();
