// The truth meter: the text shaded per token by what the chosen setting costs against the model's own k, in nats.
// Texts enter through textContent only.
const FULL = 1; // nats: the strongest shade
let view = null, k = null, weighting = "raw", focus = 0, nodes = [], key = "";

const signed = (x, digits = 2) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;
const shown = (text) => (text === "" ? "…" : text.replace(/\n/g, "⏎\n").replace(/^ $/, "␣"));
const own = () => view.settings[0];
const chosen = () => view.settings.find((s) => s.k === k && s.weighting === weighting);

function options(select, values, current, names) {
  const wanted = values.join();
  if (select.dataset.values !== wanted) {
    select.dataset.values = wanted;
    select.replaceChildren(...values.map((v) => new Option(names ? names(v) : v, v)));
  }
  select.value = current;
}

function read(i) {
  const s = chosen();
  if (!s || i < 0 || i >= nodes.length) { $(".cmp-readout").textContent = "Point at a token for its numbers."; return; }
  const text = view.texts[i];
  $(".cmp-readout").textContent = `${text.trim() === "" ? JSON.stringify(text) : `“${text}”`}: ${s.nll[i].toFixed(3)} nats at ${s.name}, ` +
    `${own().nll[i].toFixed(3)} at k=${view.own} (${signed(s.nll[i] - own().nll[i], 3)}); KL ${s.kl[i].toFixed(4)}`;
}

function move(to) {
  if (nodes[focus]) { nodes[focus].tabIndex = -1; nodes[focus].setAttribute("aria-selected", "false"); }
  focus = Math.max(0, Math.min(nodes.length - 1, to));
  nodes[focus].tabIndex = 0;
  nodes[focus].setAttribute("aria-selected", "true");
}

function shade() {
  const s = chosen();
  $(".cmp-verdict").textContent = s ? s.verdict : "";
  nodes.forEach((node, i) => {
    const change = s ? s.nll[i] - own().nll[i] : 0;
    node.className = Math.abs(change) < 0.005 ? "" : change > 0 ? "costs" : "saves";
    node.style.setProperty("--shade", `${Math.round(8 + 52 * Math.min(1, Math.abs(change) / FULL))}%`);
  });
  $(".cmp-axes").textContent = `full colour: ${FULL} nat or more against k=${view.own}; no colour: under 0.005`;
  read(document.activeElement === nodes[focus] ? focus : -1);
}

function draw() {
  view = props.value ? JSON.parse(props.value) : null;
  $(".cmp").hidden = !view;
  if (!view) return;
  const texts = view.text + "\u0000" + view.texts.join("\u0001");
  if (texts !== key) {
    key = texts;
    k = null;
    focus = 0;
    nodes = view.texts.map((text) => {
      const node = make("span", "", shown(text));
      node.setAttribute("role", "option");
      node.tabIndex = -1;
      return node;
    });
    $(".cmp-strip").replaceChildren(...nodes);
    if (nodes.length) move(0);
  }
  const ks = [...new Set(view.settings.map((s) => s.k))].sort((a, b) => a - b);
  const weightings = [...new Set(view.settings.map((s) => s.weighting))];
  const wanted = [2 * view.own, view.own / 2].find((x) => ks.includes(x));
  if (!element.dataset.chosen && wanted) k = wanted;
  if (!ks.includes(k)) k = wanted ?? view.own;
  if (!chosen()) weighting = "raw";
  options($(".cmp-k"), ks, k);
  options($(".cmp-w"), weightings, weighting, (w) => w.replace("_", "-"));
  $(".cmp-doing").textContent = view.doing ? `${view.doing} …` : view.stopped ? "Stopped; this is what was measured." : "";
  shade();
  const head = make("tr");
  head.append(...["setting", "nats/token", "change", "total nats", "KL", "tok/s"].map((t) => make("th", "", t)));
  $(".cmp-all").replaceChildren(head, ...view.settings.map((s) => {
    const row = make("tr");
    row.append(make("th", "", s.name + (s === own() ? " (own)" : "")), ...[s.mean.toFixed(3), signed(s.mean - own().mean, 3),
      s.total.toFixed(1), s.mean_kl.toFixed(4), s.rate ? s.rate.toFixed(0) : "–"].map((t) => make("td", "", t)));
    row.firstChild.scope = "row";
    return row;
  }));
}

$(".cmp-k").addEventListener("change", (event) => { k = Number(event.target.value); element.dataset.chosen = "yes"; shade(); });
$(".cmp-w").addEventListener("change", (event) => { weighting = event.target.value; shade(); });
const strip = $(".cmp-strip");
const indexOf = (node) => nodes.indexOf(node.closest ? node.closest("[role=option]") : null);
strip.addEventListener("pointerover", (event) => { const i = indexOf(event.target); if (i >= 0) read(i); });
strip.addEventListener("pointerleave", () => read(strip.contains(document.activeElement) ? focus : -1));
strip.addEventListener("focusin", (event) => { const i = indexOf(event.target); if (i >= 0) { move(i); read(i); } });
strip.addEventListener("click", (event) => { const i = indexOf(event.target); if (i >= 0) nodes[i].focus(); });
strip.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -nodes.length, End: nodes.length }[event.key];
  if (!step || !nodes.length) return;
  move(focus + step);
  nodes[focus].focus();
  event.preventDefault();
});
draw();
watch("value", draw);
