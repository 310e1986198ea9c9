// Shared by the list of sounds and the editor: it is prepended to both scripts.

const SVG = new Set(["svg", "path"]);

/** An element with attributes and children; attributes that are false or null are left out. */
function make(tag, attributes, ...children) {
  const found = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== false && value !== null && value !== undefined) found.setAttribute(name, value === true ? "" : value);
  }
  found.append(...children);
  return found;
}

/** The waveform of a card as a closed path, scaled to its own peak. */
function waveform(card) {
  const lows = card.peaks.filter((_, place) => place % 2 === 0);
  const highs = card.peaks.filter((_, place) => place % 2 === 1);
  const top = Math.max(2, ...card.peaks.map(Math.abs));
  const point = (value, place) => place + "," + (50 - (48 * value) / top).toFixed(1);
  const outline = [...highs.map(point), ...lows.map(point).reverse()];
  const svg = make("svg", {viewBox: "0 0 " + Math.max(1, highs.length - 1) + " 100", preserveAspectRatio: "none", "aria-hidden": "true"});
  svg.append(make("path", {d: "M" + outline.join("L") + "Z"}));
  return svg;
}

/** Marks of the time axis, at most seven. */
function ticks(duration) {
  const step = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((each) => duration / each <= 6) || 1200;
  const row = make("div", {class: "ss-ticks", "aria-hidden": "true"});
  for (let at = 0; at <= duration + 1e-9; at += step) {
    const label = make("span", {style: "left:" + (100 * at) / duration + "%"}, String(Number(at.toFixed(2))));
    if (at > 0.94 * duration) label.classList.add("ss-last");
    row.append(label);
  }
  return row;
}

/** Waveform above spectrogram, with a line at the position of the player. */
function picture(card) {
  const frame = make("div", {class: "ss-frame"});
  const image = make("img", {src: card.picture, alt: "Spectrogram of " + card.title + ": time from left to right, low to high frequencies from below", draggable: "false", loading: "lazy"});
  frame.append(make("div", {class: "ss-wave"}, waveform(card)), image, make("i", {class: "ss-head-line", hidden: true}));
  return make("div", {class: "ss-picture"}, frame, ticks(card.duration_s));
}

/** Move the position line of a picture with a player. */
function follow(audio, shown, duration) {
  const line = shown.querySelector(".ss-head-line");
  const draw = () => {
    line.hidden = audio.currentTime === 0;
    line.style.left = (100 * Math.min(1, audio.currentTime / duration)) + "%";
    if (!audio.paused) requestAnimationFrame(draw);
  };
  for (const name of ["play", "pause", "seeked", "timeupdate"]) audio.addEventListener(name, draw);
}

/** Seconds of a pointer over an element. */
function secondsAt(event, element, duration) {
  const box = element.getBoundingClientRect();
  return duration * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
}

/** Pause all other players when one starts. */
function pauseOtherPlayers(root) {
  root.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);
}
