// The map, the layers, the pairs and the claims. `element`, `props`, `trigger` and `watch` are gradio's.

const part = (name) => element.querySelector(`[data-part="${name}"]`);
const canvas = part("map"), map = createHeatmap(canvas);
const state = { view: null, source: 0, cell: null, cursor: null };
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

function read(value) {
  const view = JSON.parse(value);
  for (const s of view.surveys) {
    s.selected = new Uint8Array(bytes(s.selected));
    s.pairs = new Uint16Array(bytes(s.pairs));
  }
  if (view.study) {
    for (const group of view.study.shares) group.share = new Float32Array(bytes(group.share));
    view.study.loyal.best = new Uint16Array(bytes(view.study.loyal.best));
    view.study.loyal.share = new Float32Array(bytes(view.study.loyal.share));
  }
  return view;
}

const sources = () => [...state.view.surveys, ...(state.view.study ? [{ name: "the sample", ...state.view.study, pieces: null }] : [])];
const source = () => sources()[Math.min(state.source, sources().length - 1)];
const tokensOf = (s) => (s.pieces ? s.pieces.length : s.tokens);

function choose(cell, tell) {
  state.cell = cell;
  if (tell) trigger("submit", cell);
  draw();
}

function busiest(counts) {
  let best = { layer: 0, expert: 0 };
  counts.forEach((row, layer) => row.forEach((n, expert) => { if (n > counts[best.layer][best.expert]) best = { layer, expert }; }));
  return best;
}

const describe = (s, { layer, expert }) => `Layer ${layer}, expert ${expert}: ${s.counts[layer][expert]} of ${tokensOf(s)} tokens (${share(s.counts[layer][expert] / tokensOf(s))})`;

function drawMap(s) {
  const flat = s.counts.flat(), silent = flat.filter((n) => !n).length;
  part("map-title").textContent = "Routers at work";
  part("map-note").textContent = `${tokensOf(s)} tokens of ${s.name}, k = ${s.k}${Number.isInteger(s.k) ? "" : " on average"}. ${silent} of ${flat.length} experts never fired. Choose one by a click, or with the arrow keys and Enter.`;
  canvas.setAttribute("aria-label", `Tokens per expert, layers down, experts across. ${part("map-note").textContent}`);
  const width = canvas.parentElement.clientWidth;
  if (!width) return; // the tab is not in view: drawn when it is
  map.fit(width, { layers: s.counts.length, experts: s.counts[0].length });
  map.draw({ values: flat, used: flat, max: Math.max(...flat), fired: [], pinned: state.cell, cursor: state.cursor, colours: palette(part("body")) });
  part("readout").textContent = describe(s, state.cursor || state.cell);
}

function table(place, head, rows, textColumns = []) {
  const line = (cells, tag) => {
    const row = make("tr");
    row.append(...cells.map((text, i) => make(tag, textColumns.includes(i) ? "ex-text" : "", text)));
    return row;
  };
  const made = rows.map((cells) => line(cells, "td"));
  place.replaceChildren(line(head, "th"), ...made);
  return made;
}

function drawLayers(s) {
  part("layers-fold").hidden = part("pairs-fold").hidden = !s.pieces;
  if (!s.pieces) return;
  const masses = Object.keys(s.mass);
  const rows = table(part("layers"), ["layer", "busiest / mean", "deviation / mean", "entropy", ...masses.map((k) => `mass at ${k}`), "never fired"],
    s.counts.map((row, i) => [i, s.max_over_mean[i].toFixed(2), s.variation[i].toFixed(2), s.entropy[i].toFixed(2),
      ...masses.map((k) => s.mass[k][i].toFixed(2)), row.filter((n) => !n).length]));
  rows[state.cell.layer].className = "ex-on";
}

function drawPairs(s) {
  const { layer } = state.cell, pairs = part("pairs");
  part("pairs-title").textContent = `Experts that work together in layer ${layer}`;
  if (!s.pieces || !part("pairs-fold").open) return;
  const experts = s.counts[0].length, colours = palette(part("body")), side = experts * Math.max(4, Math.round(640 / experts));
  pairs.width = pairs.height = side;
  const context = pairs.getContext("2d"), size = side / experts, found = [];
  for (let i = 0; i < experts; i++) {
    for (let j = 0; j < experts; j++) {
      const together = s.pairs[(layer * experts + i) * experts + j], value = s.counts[layer][i] ? together / s.counts[layer][i] : 0;
      context.fillStyle = i === j || !value ? colours.none : colourOf(colours.table, value, 1);
      context.fillRect(j * size, i * size, size - 1, size - 1);
      if (i !== j && together > 1) found.push([together, value, i, j]);
    }
  }
  found.sort((a, b) => b[0] - a[0] || b[1] - a[1]);
  const words = found.slice(0, 4).map(([n, value, i, j]) => `${i} with ${j}: ${n} tokens, ${share(value)} of ${i}’s`).join("; ");
  part("pairs-readout").textContent = words ? `Most often: ${words}.` : "No two experts worked on more than one token together.";
  pairs.setAttribute("aria-label", part("pairs-readout").textContent);
}

function drawOverlap() {
  const { divergence } = state.view;
  part("overlap").textContent = "";
  if (!divergence) return;
  const mean = divergence.reduce((a, b) => a + b, 0) / divergence.length;
  const far = divergence.indexOf(Math.max(...divergence));
  part("overlap").textContent = `The two texts load the experts ${(100 * (1 - mean)).toFixed(0)} % alike: Jensen–Shannon divergence ${mean.toFixed(3)} bits, mean over layers (0 the same, 1 no expert in common); most apart in layer ${far}, ${divergence[far].toFixed(3)}.`;
}

function drawClaims() {
  const { study } = state.view;
  part("claims").hidden = !study || !study.insights.length;
  if (part("claims").hidden) return;
  part("claims-note").textContent = `${props.about.model}, k = ${study.k}, ${study.tokens} tokens of ${study.texts} texts${study.stopped ? ", stopped before all were read" : ""}.`;
  table(part("claims-table"), ["claim", "measured by", "verdict", "effect", "shuffled, mean", "largest", "p", "shuffled"],
    study.insights.map((i) => [i.claim, i.measure, i.verdict, ...(i.verdict.startsWith("not") ? ["–", "–", "–", "–"]
      : [i.effect.toFixed(3), i.control.toFixed(3), i.highest.toFixed(3), i.p.toFixed(2)]), `${i.units} ${i.shuffled}`]), [0, 1, 2]);
}

function draw() {
  const s = source();
  drawMap(s);
  drawLayers(s);
  drawPairs(s);
  drawOverlap();
  drawClaims();
  part("page-title").textContent = `Layer ${state.cell.layer}, expert ${state.cell.expert}`;
  drawExpert(part("page-body"), state.cell, s.pieces ? s : state.view.surveys[0], state.view.study, props.about.atlas, props.about.model);
}

function take() {
  const before = state.view;
  state.view = props.value ? read(props.value) : null;
  part("doing").textContent = state.view ? state.view.doing : "";
  const any = state.view && sources().length > 0;
  part("body").hidden = !any;
  if (!any) return;
  const named = sources().map((s) => s.name);
  if (!before || before.asked !== state.view.asked) state.source = 0;
  part("source").replaceChildren(...named.map((name, i) => new Option(name, i, false, i === Math.min(state.source, named.length - 1))));
  part("source").hidden = named.length < 2;
  const counts = source().counts;
  if (!state.cell || !counts[state.cell.layer] || counts[state.cell.layer][state.cell.expert] === undefined) choose(busiest(counts), true);
  else draw();
}

part("source").addEventListener("change", () => { state.source = Number(part("source").value); draw(); });
part("pairs-fold").addEventListener("toggle", () => { if (state.view) drawPairs(source()); });
canvas.addEventListener("click", (event) => {
  const cell = map.cellAt(event.offsetX, event.offsetY);
  if (cell) { state.cursor = null; choose(cell, true); }
});
canvas.addEventListener("mousemove", (event) => {
  const cell = map.cellAt(event.offsetX, event.offsetY);
  part("readout").textContent = describe(source(), cell || state.cell);
});
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }, s = source();
  const at = state.cursor || state.cell;
  if (steps[event.key]) {
    const [down, right] = steps[event.key], within = (v, n) => Math.max(0, Math.min(n - 1, v));
    state.cursor = { layer: within(at.layer + down, s.counts.length), expert: within(at.expert + right, s.counts[0].length) };
    drawMap(s);
  } else if (event.key === "Enter" || event.key === " ") {
    state.cursor = null;
    choose(at, true);
  } else return;
  event.preventDefault();
});
new ResizeObserver(() => { if (state.view && state.cell) drawMap(source()); }).observe(canvas.parentElement);
onThemeChange(() => { if (state.view && state.cell) draw(); });
take();
watch("value", take);
