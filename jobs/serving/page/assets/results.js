const list = element.querySelector(".ss-list");
const empty = element.querySelector(".ss-empty");
const count = element.querySelector(".ss-count");
const only = element.querySelector(".ss-only");
const archive = element.querySelector(".ss-zip");
const compare = element.querySelector(".ss-compare");
const chosen = {a: null, b: null};
let repeated = null;
pauseOtherPlayers(element);

function stopRepeat() {
  if (!repeated) return;
  repeated.source.stop();
  repeated.context.close();
  repeated.button.setAttribute("aria-pressed", "false");
  repeated = null;
}

/** Loop a sound without a gap, which an audio element cannot. */
async function repeat(button, card) {
  const isOn = button.getAttribute("aria-pressed") === "true";
  stopRepeat();
  if (isOn) return;
  for (const player of document.querySelectorAll("audio")) player.pause();
  button.setAttribute("aria-pressed", "true");
  const context = new AudioContext();
  const source = context.createBufferSource();
  repeated = {button, context, source};
  source.buffer = await context.decodeAudioData(await (await fetch(card.audio)).arrayBuffer());
  source.loop = true;
  source.connect(context.destination);
  if (repeated && repeated.source === source) source.start();
}

function button(words, label, action) {
  const found = make("button", {type: "button", class: "ss-button", "aria-label": label}, words);
  found.addEventListener("click", () => action(found));
  return found;
}

function link(words, label, address, name) {
  return make("a", {class: "ss-button", href: address, download: name || true, "aria-label": label}, words);
}

function drawCard(card) {
  const item = make("li", {class: "ss-card", "data-id": card.id});
  const shown = picture(card);
  const audio = make("audio", {controls: true, preload: "metadata", src: card.audio, "aria-label": "Play " + card.title + ", " + card.facts});
  follow(audio, shown, card.duration_s);
  audio.addEventListener("play", stopRepeat);
  const frame = shown.querySelector(".ss-frame");
  frame.addEventListener("click", (event) => { audio.currentTime = secondsAt(event, frame, card.duration_s); });
  const keep = button("Keep", "Keep " + card.title, () => {
    card.kept = !card.kept;
    markKept(item, card.kept);
    arrange();
    trigger("keep_sound", {id: card.id, kept: card.kept});
  });
  keep.classList.add("ss-keep");
  const turn = button("Repeat", "Play " + card.title + " round and round", (self) => repeat(self, card));
  turn.setAttribute("aria-pressed", "false");
  const actions = make("div", {class: "ss-actions"}, keep, turn,
    button("A", "Compare: " + card.title + " as A", () => choose("a", card)),
    button("B", "Compare: " + card.title + " as B", () => choose("b", card)),
    button("Edit", "Edit " + card.title, () => trigger("edit_sound", {id: card.id})),
    link("Download", "Download " + card.title, card.audio + "?download=true"));
  if (card.recipe) actions.append(link("Recipe", "Download the recipe of " + card.title, card.recipe));
  actions.append(button("Remove", "Remove " + card.title, () => trigger("remove_sound", {id: card.id})));
  item.append(make("h3", {}, card.title), make("p", {class: "ss-facts"}, card.facts), shown, audio, actions);
  markKept(item, card.kept);
  return item;
}

function markKept(item, kept) {
  item.classList.toggle("ss-kept", kept);
  const keep = item.querySelector(".ss-keep");
  keep.setAttribute("aria-pressed", kept ? "true" : "false");
  keep.textContent = kept ? "Kept" : "Keep";
}

function choose(slot, card) {
  chosen[slot] = card;
  compare.hidden = false;
  const figure = compare.querySelector("[data-slot=" + slot + "]");
  const shown = picture(card);
  const audio = make("audio", {preload: "auto", src: card.audio});
  follow(audio, shown, card.duration_s);
  audio.addEventListener("play", stopRepeat);
  figure.replaceChildren(make("figcaption", {}, make("b", {}, slot.toUpperCase()), " " + card.title + " · " + card.facts), shown, audio);
  for (const each of ["a", "b"]) compare.querySelector("[data-play=" + each + "]").disabled = !chosen[each];
}

/** Play one of the two from the position of the other. */
function play(slot) {
  const audio = compare.querySelector("[data-slot=" + slot + "] audio");
  const other = compare.querySelector("[data-slot=" + (slot === "a" ? "b" : "a") + "] audio");
  const isPlaying = !audio.paused;
  if (other && !other.paused) {
    audio.currentTime = Math.min(other.currentTime, Math.max(0, audio.duration - 0.01) || 0);
    other.pause();
  }
  if (isPlaying) audio.pause(); else audio.play().catch(() => {});  // it was paused before it began
}

compare.querySelector("[data-play=a]").addEventListener("click", () => play("a"));
compare.querySelector("[data-play=b]").addEventListener("click", () => play("b"));
compare.querySelector(".ss-close").addEventListener("click", () => {
  for (const audio of compare.querySelectorAll("audio")) audio.pause();
  compare.hidden = true;
});

/** Update the count and the filter. */
function arrange() {
  const cards = props.value || [];
  const kept = list.querySelectorAll(".ss-kept").length;
  for (const item of list.children) item.hidden = only.checked && !item.classList.contains("ss-kept");
  empty.hidden = cards.length > 0;
  count.textContent = cards.length ? cards.length + (cards.length === 1 ? " sound, " : " sounds, ") + kept + " kept" : "";
  const wanted = only.checked ? kept : cards.length;
  archive.hidden = wanted === 0;
  archive.textContent = only.checked ? "Download kept (zip)" : "Download all (zip)";
  archive.href = "studio/sounds.zip" + (only.checked ? "?kept=true" : "");
}

/** Show the state from the server; existing cards are not changed, so that they keep playing. */
function show() {
  const cards = props.value || [];
  const wanted = new Map(cards.map((card) => [card.id, card]));
  for (const item of [...list.children]) {
    const card = wanted.get(item.dataset.id);
    if (card) { markKept(item, card.kept); continue; }
    if (item.contains(document.activeElement)) {
      const next = item.nextElementSibling || item.previousElementSibling;
      (next ? next.querySelector("button") : element.querySelector("h2")).focus();
    }
    item.remove();
  }
  const there = new Map([...list.children].map((item) => [item.dataset.id, item]));
  cards.forEach((card, place) => {
    const item = there.get(card.id) || drawCard(card);
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null);
  });
  arrange();
}

/** Select the text of a class field on focus, so that typing replaces it. */
for (const name of ["focusin", "click"]) {
  document.addEventListener(name, ({target}) => { if (target.matches("input[role=combobox]")) setTimeout(() => target.select()); });
}

only.addEventListener("change", arrange);
watch("value", show);
show();
