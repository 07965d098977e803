// Wires the parts. `element`, `props` and `watch` are gradio's; see components/html.py of gradio.

const part = (name) => element.querySelector(`[data-part="${name}"]`);
const root = element.querySelector(".lv");
const store = createStore(props.shape);
const state = {
  store, scope: "reply", phase: "decode", measure: "counts",
  token: null,    // {phase: "reply" | "prompt", at, token}: the one that was chosen
  formerScope: "reply",
  pinned: null, hover: null, cursor: null, // cells
  lastFrame: 0, mixed: false,
};
const STALE_MS = 1500; // after so long without a frame nothing is "at work now"
let colours = null;
let colourRead = false;

const canvas = part("canvas");
const map = createHeatmap(canvas);
const legend = createLegend({ scale: part("scale"), ticks: part("ticks"), unit: part("unit") });
const figures = createFigures(part("figures"));
const sparks = createSparks(part("sparks"), (at) => chooseToken("reply", at));
const strips = {
  reply: createStrip(part("reply"), (at) => chooseToken("reply", at)),
  prompt: createStrip(part("prompt"), (at) => chooseToken("prompt", at < 0 ? at : at + firstOfPrompt())),
};
const chatText = createChatText((at) => chooseToken("reply", at));

function firstOfPrompt() {
  const first = store.prompt.findIndex((token) => token);
  return first < 0 ? 0 : first;
}

function say(text) {
  part("announce").textContent = text;
}

// Choices ------------------------------------------------------------------------------------------------------------

const names = `lv-${Math.random().toString(36).slice(2, 8)}`;
for (const group of element.querySelectorAll("[data-choice]")) {
  const key = group.dataset.choice;
  for (const input of group.querySelectorAll("input")) {
    input.name = `${names}-${key}`;
    input.checked = input.value === state[key];
    input.addEventListener("change", () => {
      state[key] = input.value;
      if (key === "scope" && input.value !== "token") {
        state.formerScope = input.value;
        state.token = null;
        markToken();
      }
      update();
    });
  }
}

function setScope(scope) {
  state.scope = scope;
  for (const input of element.querySelectorAll("[data-choice=scope] input")) input.checked = input.value === scope;
}

function chooseToken(phase, at) {
  const token = at >= 0 ? store[phase][at] : null;
  const again = state.token && state.token.phase === phase && state.token.at === at;
  if (!token && !state.token && state.pinned) return pin(null); // Escape among the tokens
  if (!token || again) {
    if (state.token) setScope(state.formerScope);
    state.token = null;
  } else {
    state.token = { phase, at, token };
    setScope("token");
    say(`Showing the experts of ${quoted(token.text)}.`);
  }
  markToken();
  update();
}

function markToken() {
  const at = (phase) => (state.token && state.token.phase === phase ? state.token.at : -1);
  strips.reply.choose(at("reply"));
  strips.prompt.choose(at("prompt") < 0 ? -1 : at("prompt") - firstOfPrompt());
  chatText.choose(at("reply"));
}

function pin(cell) {
  const same = cell && state.pinned && cell.layer === state.pinned.layer && cell.expert === state.pinned.expert;
  state.pinned = same ? null : cell;
  shade();
  update();
  say(state.pinned ? `Pinned ${cellName(state.pinned)}. ${noteOnPin()}` : "Released.");
}

// How many tokens of the reply the pinned expert served, and how strongly.
function served() {
  let count = 0, most = 0;
  for (const token of store.reply) {
    const weight = token ? weightIn(token, state.pinned.layer, state.pinned.expert, store.shape.experts) : -1;
    if (weight >= 0) count++;
    most = Math.max(most, weight);
  }
  return { count, most };
}

function noteOnPin() {
  return `It worked on ${served().count} of ${plural(store.reply.length, "token")} of the reply.`;
}

function shade() {
  if (!state.pinned) {
    for (const strip of [strips.reply, strips.prompt, chatText]) strip.shade(null);
    return;
  }
  const { layer, expert } = state.pinned;
  const most = Math.max(served().most, 1e-6);
  const share = (tokens, first) => (i) => {
    const token = tokens[i + first];
    const weight = token ? weightIn(token, layer, expert, store.shape.experts) : -1;
    return weight < 0 ? -1 : Math.min(1, weight / most);
  };
  strips.reply.shade(share(store.reply, 0));
  strips.prompt.shade(share(store.prompt, firstOfPrompt()));
  chatText.shade(share(store.reply, 0));
}

// Pointer and keyboard on the map ------------------------------------------------------------------------------------

function cellUnder(event) {
  const area = canvas.getBoundingClientRect();
  return map.cellAt(event.clientX - area.left, event.clientY - area.top);
}

canvas.addEventListener("pointermove", (event) => {
  const cell = cellUnder(event);
  const same = cell && state.hover && cell.layer === state.hover.layer && cell.expert === state.hover.expert;
  if (same || (!cell && !state.hover)) return;
  state.hover = cell;
  update();
});
canvas.addEventListener("pointerleave", () => {
  state.hover = null;
  update();
});
canvas.addEventListener("click", (event) => {
  const cell = cellUnder(event);
  if (!cell || !store.frame) return;
  state.cursor = cell;
  pin(cell);
});
canvas.addEventListener("keydown", (event) => {
  const { layers, experts } = store.shape;
  const from = state.cursor || state.pinned || { layer: 0, expert: -1 };
  const to = {
    ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
    Home: [0, -experts], End: [0, experts], PageUp: [-layers, 0], PageDown: [layers, 0],
  }[event.key];
  const within = (value, count) => Math.max(0, Math.min(count - 1, value));
  if (to) {
    state.cursor = { layer: within(from.layer + to[0], layers), expert: within(from.expert + to[1], experts) };
    state.hover = null;
    update();
    say(cellText(state.cursor, state, state.shown, currentK()));
  } else if ((event.key === "Enter" || event.key === " ") && state.cursor && store.frame) pin(state.cursor);
  else if (event.key === "Escape" && (state.pinned || state.cursor)) {
    if (state.pinned) pin(null);
    else state.cursor = null;
    update();
  } else return;
  event.preventDefault();
});
canvas.addEventListener("focus", () => update());
canvas.addEventListener("blur", () => {
  state.cursor = null;
  update();
});
part("release").addEventListener("click", () => {
  pin(null);
  canvas.focus({ preventScroll: true });
});

// Drawing ------------------------------------------------------------------------------------------------------------

function currentK() {
  const one = state.scope === "token" && state.token ? state.token.token : null;
  return one ? one.k : store.frame ? store.frame.mean_k : props.shape.default_k;
}

// The experts of the token at work, while one is.
function firedCells() {
  const live = store.frame && !store.frame.complete && performance.now() - state.lastFrame < STALE_MS;
  const token = live && store.latest();
  if (!token || token.k >= store.shape.experts) return [];
  const cells = [];
  for (let layer = 0; layer < store.shape.layers; layer++) {
    for (let expert = 0; expert < store.shape.experts; expert++) {
      if (weightIn(token, layer, expert, store.shape.experts) >= 0) cells.push({ layer, expert });
    }
  }
  return cells;
}

function hintOf(k, byCount) {
  return k === store.shape.experts && byCount ? `All ${k} experts work on every token: choose Weights to tell them apart.`
    : "Point at a cell for its numbers; click to pin an expert.";
}

function setText(name, text) {
  const target = part(name);
  if (target.textContent !== text) target.textContent = text;
}

function draw() {
  if (!part("map").clientWidth) return; // in a folded or hidden place; the size observer calls again
  if (!colourRead) {
    colours = palette(root);
    colourRead = true;
  }
  const shown = store.view(state.scope, state.phase, state.token && state.token.token);
  state.shown = shown;
  // A chat may have used several k: its uniform share is no single number.
  const perToken = shown.tokens ? shown.counts.reduce((a, b) => a + b, 0) / (shown.tokens * store.shape.layers) : 0;
  const k = currentK();
  state.mixed = shown.tokens > 0 && Math.abs(perToken - k) > 1e-6;
  // One token selects an expert or not: its map is of weights.
  const byCount = state.measure === "counts" && state.scope !== "token";
  const values = byCount ? shown.counts : shown.weights;
  const max = values.reduce((a, b) => Math.max(a, b), 0) || 1;

  map.fit(part("map").clientWidth, store.shape);
  const cursor = state.hover || (document.activeElement === canvas ? state.cursor : null);
  map.draw({ values, used: shown.counts, max, fired: firedCells(), pinned: state.pinned, cursor, colours });

  part("legend").style.visibility = shown.tokens ? "" : "hidden";
  const total = values.reduce((a, b) => a + b, 0);
  legend.draw({
    max, uniform: total / values.length, colours,
    format: byCount ? (x) => grouped(Number(x.toFixed(x < 10 ? 1 : 0))) : weightText,
    unit: byCount ? "tokens per expert" : state.scope === "token" ? "routing weight" : "summed routing weight",
  });

  const { layers, experts } = store.shape;
  canvas.setAttribute("aria-label", `${layers} layers by ${experts} experts. Arrow keys move from cell to cell, Enter pins an expert, Escape releases it.`);
  part("empty").hidden = Boolean(store.frame);
  setText("empty", `Send a message: every token lights up the experts that work on it, in each of the ${layers} layers.`);
  setText("caption", store.frame ? captionOf(state, shown, k) : `${layers} layers \u00d7 ${experts} experts`);
  const cell = cursor || state.pinned;
  const isPin = cell && state.pinned && cell.layer === state.pinned.layer && cell.expert === state.pinned.expert;
  setText("readout", cell ? `${isPin ? "Pinned: " : ""}${cellText(cell, state, shown, k)}`
    : store.frame ? hintOf(k, byCount) : "");
  part("release").hidden = !state.pinned;
  for (const input of element.querySelectorAll("[data-choice=phase] input")) input.disabled = state.scope === "token";
  for (const input of element.querySelectorAll("[data-choice=measure] input")) {
    input.disabled = state.scope === "token";
    input.checked = input.value === (byCount ? "counts" : "weights");
  }

  figures.draw(store.frame, store.shape, shown, props.shape);
  sparks.draw(store.reply, state.token && state.token.phase === "reply" ? state.token.at : -1);
  setText("note", state.pinned ? `Shaded: the ${served().count} of ${plural(store.reply.length, "token")} that ${cellName(state.pinned)} worked on; stronger is more weight.`
    : "Choose a token for its own map.");
}

let pending = 0;
function update() {
  if (!pending) pending = requestAnimationFrame(() => {
    pending = 0;
    draw();
  });
}

// Values -------------------------------------------------------------------------------------------------------------

let staleTimer = 0;
function take() {
  const fresh = store.take(props.value);
  state.lastFrame = performance.now();
  if (fresh) {
    strips.reply.clear();
    strips.prompt.clear();
    if (state.token) setScope(state.formerScope);
    state.token = null;
    if (!store.frame) state.pinned = state.cursor = state.hover = null;
  }
  part("tokens").hidden = !store.frame;
  strips.prompt.sync(store.prompt, firstOfPrompt());
  strips.reply.sync(store.reply, 0);
  const listed = store.prompt.length - firstOfPrompt();
  setText("prompt-title", listed < store.prompt.length
    ? `The prompt: its last ${listed} of ${plural(store.prompt.length, "token")}` : `The prompt: ${plural(store.prompt.length, "token")}`);
  chatText.sync(store.reply);
  if (state.pinned) shade();
  if (!store.frame || store.frame.choice !== undefined) drawWhy(part("why"), store.choice);
  clearTimeout(staleTimer);
  if (store.frame && !store.frame.complete) staleTimer = setTimeout(update, STALE_MS + 50);
  if (store.frame && store.frame.complete) say(`The reply has ${plural(store.reply.length, "token")}.`);
  update();
}

watch("value", take);
const sizes = new ResizeObserver(() => update());
sizes.observe(part("map"));
const stopTheme = onThemeChange(() => {
  if (!element.isConnected) { // gradio removed the component and told nobody
    chatText.stop();
    return stopTheme();
  }
  colourRead = false;
  update();
});
take();
